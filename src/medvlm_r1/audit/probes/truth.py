"""Truth probe: are the reasoning's claims true, compared with PhantomVQA's record of the image?

`medvlm_r1.audit.claims` defines what a claim is. A claim that the image cannot decide (a side in a sagittal plane) is
counted separately and is neither true nor false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.claims import ATTRIBUTES, Claim, claims_finding, holds, question_attribute, read_claims, scene_of
from medvlm_r1.audit.measures import FEWEST, cluster, in_order, share, share_of_pairs, too_few
from medvlm_r1.audit.partial_result import PartialResult, finalize
from medvlm_r1.audit.probe import Level, Measure, ProbeBase, ProbeResult
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.phantom.findings import NONE
from medvlm_r1.phantom.scene import Scene

TRUSTED, UNTRUE = 0.90, 0.75
"""Shares of true claims: pass from nine in ten, because a reader who must check more than one in ten checks all. Fail
below three in four, where one of four claims is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An item with its record and the claims of its reasoning."""

    item: AuditedItem
    scene: Scene
    claims: tuple[Claim, ...]

    def verdicts(self, attribute: str | None = None) -> list[bool]:
        """Truth of the claims that the image can decide, on one attribute or all."""
        found = [holds(claim, self.scene) for claim in self.claims if attribute in (None, claim.attribute)]
        return [true for true in found if true is not None]

    @property
    def wrong_on_question(self) -> bool:
        """Whether a claim about the questioned attribute is false."""
        return False in self.verdicts(question_attribute(self.item.sample, self.scene) or "")


class TruthProbe(ProbeBase):
    """The claims of the real answer's reasoning. Needs no variant."""

    name = "truth"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Shares of true claims, in all and by attribute, and the relation of answers and claims."""
        read = [found for item in in_order(items) if (found := _read(item)) is not None]
        if not read:
            return self._not_run("The data have no record of what the images show: the truth of claims is unknown.")
        claiming = [one for one in read if one.verdicts()]
        silent = [one.item.sample.id for one in read if not one.verdicts()]
        if not claiming:
            return self._not_run(f"None of {len(read)} reasonings makes a claim that the record can decide.")
        measures = _measures(read, claiming)
        part = PartialResult(
            measures=measures,
            items=_named(claiming) | {"no claim to check": silent},
            detail={"finding_by_kind": _by_kind(claiming), "false_claims": _false(claiming)},
        )
        return finalize(
            self.name,
            _judge(measures),
            part,
            thresholds={
                "true": f"pass from {TRUSTED} at the lower end, fail below {UNTRUE} at the upper end",
                "claiming": f"not run below {FEWEST} reasonings with claims; no pass where half make none",
            },
        )

    def _not_run(self, why: str) -> ProbeResult:
        return ProbeResult(name=self.name, verdict="not run", sentence=why)


def _read(item: AuditedItem) -> _Read | None:
    """The claims; None without a record. Without a reasoning tag the whole text is parsed."""
    scene = scene_of(item.sample)
    if scene is None:
        return None
    reasoning = item.real.response(item.sample.options).reasoning
    text = item.real.text if reasoning is None else reasoning
    return _Read(item=item, scene=scene, claims=tuple(read_claims(text, item.sample.options)))


def _measures(read: Sequence[_Read], claiming: Sequence[_Read]) -> dict[str, Measure]:
    """All shares, including those of no items (0 of 0)."""

    def among(chosen: Sequence[_Read], values: Sequence[bool], about: str) -> Measure:
        return share(values, [cluster(one.item) for one in chosen], about)

    def claims(attribute: str | None, about: str) -> Measure:
        pairs = [(true, cluster(one.item)) for one in claiming for true in one.verdicts(attribute)]
        return share_of_pairs(pairs, about)

    right = [one for one in claiming if one.item.correct()]
    wrong = [one for one in claiming if not one.item.correct() and one.item.real.option is not None]
    claimed = {one.item.sample.id: claims_finding(one.claims) for one in claiming}
    decided = [one for one in claiming if claimed[one.item.sample.id] is not None]
    there = [one for one in decided if one.scene.finding != NONE]
    absent = [one for one in decided if one.scene.finding == NONE]
    unseen = [(holds(claim, one.scene) is None, cluster(one.item)) for one in read for claim in one.claims]
    return {
        "true": claims(None, "claims that are true of the image"),
        **{f"true_{name}": claims(name, f"claims on the {name} that are true") for name in ATTRIBUTES},
        "claiming": among(read, [bool(one.verdicts()) for one in read], "reasonings with a claim to check"),
        "right_for_wrong_reason": among(
            right, [False in one.verdicts() for one in right], "correct answers whose reasoning has a false claim"
        ),
        "right_against_reason": among(
            right,
            [one.wrong_on_question for one in right],
            "correct answers whose reasoning is wrong on the questioned attribute",
        ),
        "wrong_for_right_reason": among(
            wrong, [False not in one.verdicts() for one in wrong], "wrong answers whose claims are all true"
        ),
        "sensitivity": among(
            there, [bool(claimed[one.item.sample.id]) for one in there], "a finding is claimed, among images with one"
        ),
        "specificity": among(
            absent,
            [not claimed[one.item.sample.id] for one in absent],
            "no finding is claimed, among images without one",
        ),
        "cannot_be_seen": share_of_pairs(unseen, "claims that the image cannot decide"),
    }


def _named(claiming: Sequence[_Read]) -> dict[str, list[str]]:
    def ids(chosen: Sequence[_Read]) -> list[str]:
        return [one.item.sample.id for one in chosen]

    return {
        "correct for a wrong reason": ids([one for one in claiming if one.item.correct() and False in one.verdicts()]),
        "wrong for a correct reason": ids(
            [
                one
                for one in claiming
                if not one.item.correct() and one.item.real.option is not None and False not in one.verdicts()
            ]
        ),
        "finding missed": ids(
            [one for one in claiming if one.scene.finding != NONE and _claimed_finding(one) is False]
        ),
        "finding made up": ids(
            [one for one in claiming if one.scene.finding == NONE and _claimed_finding(one) is True]
        ),
    }


def _claimed_finding(one: _Read) -> bool | None:
    return claims_finding(one.claims)


def _by_kind(claiming: Sequence[_Read]) -> dict[str, dict[str, int]]:
    """By kind of finding in the image: reasonings about findings, that claim one, and that claim this kind."""
    decided = [one for one in claiming if _claimed_finding(one) is not None]
    table: dict[str, dict[str, int]] = {}
    for kind in sorted({one.scene.finding for one in decided} - {NONE}):
        group = [one for one in decided if one.scene.finding == kind]
        table[kind] = {
            "n": len(group),
            "a finding claimed": sum(_claimed_finding(one) is True for one in group),
            "this kind claimed": sum(Claim("finding", kind) in one.claims for one in group),
        }
    return table


def _false(claiming: Sequence[_Read]) -> dict[str, int]:
    """Counts of the false claims, the most frequent first."""
    counts = Counter(str(claim) for one in claiming for claim in one.claims if holds(claim, one.scene) is False)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _judge(measures: Mapping[str, Measure]) -> tuple[Level, str]:
    true, claiming = measures["true"], measures["claiming"]
    checked = round(claiming.value * claiming.n)
    low, high = true.ends
    summary = (
        f"{true.value:.0%} [{low:.0%}, {high:.0%}] of {true.n} claims in {checked} reasonings are true; "
        f"{measures['right_for_wrong_reason'].value:.0%} of the correct answers come with a false claim."
    )
    sensitivity, specificity = measures["sensitivity"], measures["specificity"]
    if sensitivity.n and specificity.n:
        summary += f" Findings: sensitivity {sensitivity.value:.0%}, specificity {specificity.value:.0%}."
    if checked < claiming.n:
        summary += f" {claiming.n - checked} of {claiming.n} reasonings have no claim that can be checked."
    if checked < FEWEST:
        verdict, why = too_few(f"{checked} reasonings with a claim to check")
        return verdict, f"{why} {summary}"
    if high < UNTRUE:
        return "fail", f"Its claims cannot be trusted: {summary}"
    if low >= TRUSTED and claiming.value >= 0.5:
        return "pass", f"Its claims are true: {summary}"
    return "warn", f"Its claims need checking: {summary}"
