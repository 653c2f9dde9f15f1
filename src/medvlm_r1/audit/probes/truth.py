"""Are its claims true? Every claim of the reasoning, held against PhantomVQA's own record of the image.

What counts as a claim is in `medvlm_r1.audit.claims`. A claim that the image cannot bear out (a side in a sagittal
plane) is counted apart and is neither true nor false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.claims import ATTRIBUTES, Claim, asked_attribute, claims_finding, holds, read_claims, scene_of
from medvlm_r1.audit.measures import FEWEST, cluster, in_order, share, share_of_pairs, too_few
from medvlm_r1.audit.partial_result import Part, concluded
from medvlm_r1.audit.probe import AsksNothing, Level, Measure, ProbeResult
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.phantom.findings import NONE
from medvlm_r1.phantom.scene import Scene

TRUSTED, UNTRUE = 0.90, 0.75
"""Share of true claims: pass from nine in ten, since a reader who has to check more than one in ten checks all; fail
below three in four, where of a reasoning with four claims one is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """An item with its record and the claims of its reasoning."""

    item: AuditedItem
    scene: Scene
    claims: tuple[Claim, ...]

    def verdicts(self, attribute: str | None = None) -> list[bool]:
        """Of the claims that the image can bear out, on one attribute or all."""
        found = [holds(claim, self.scene) for claim in self.claims if attribute in (None, claim.attribute)]
        return [true for true in found if true is not None]

    @property
    def asked_false(self) -> bool:
        """Whether a claim on what was asked is false."""
        return False in self.verdicts(asked_attribute(self.item.sample, self.scene) or "")


class TruthProbe(AsksNothing):
    """The claims of the real answer's reasoning; no variant is needed."""

    name = "truth"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Shares of true claims, by attribute too, and how answers and claims go together."""
        read = [found for item in in_order(items) if (found := _read(item)) is not None]
        if not read:
            return self._not_run("The data carry no record of what the images show: the truth of claims is not known.")
        claiming = [one for one in read if one.verdicts()]
        silent = [one.item.sample.id for one in read if not one.verdicts()]
        if not claiming:
            return self._not_run(f"None of {len(read)} reasonings makes a claim that the record can be held against.")
        measures = _measures(read, claiming)
        part = Part(
            measures=measures,
            items=_named(claiming) | {"no claim to check": silent},
            detail={"finding_by_kind": _by_kind(claiming), "false_claims": _false(claiming)},
        )
        return concluded(
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
    """The claims; None without a record. Without a reasoning tag all that was written is read."""
    scene = scene_of(item.sample)
    if scene is None:
        return None
    reasoning = item.real.response(item.sample.options).reasoning
    text = item.real.text if reasoning is None else reasoning
    return _Read(item=item, scene=scene, claims=tuple(read_claims(text, item.sample.options)))


def _measures(read: Sequence[_Read], claiming: Sequence[_Read]) -> dict[str, Measure]:
    """All shares; each is there even where nothing stands behind it, as 0 of 0."""

    def among(chosen: Sequence[_Read], values: Sequence[bool], about: str) -> Measure:
        return share(values, [cluster(one.item) for one in chosen], about)

    def claims(attribute: str | None, about: str) -> Measure:
        pairs = [(true, cluster(one.item)) for one in claiming for true in one.verdicts(attribute)]
        return share_of_pairs(pairs, about)

    right = [one for one in claiming if one.item.right()]
    wrong = [one for one in claiming if not one.item.right() and one.item.real.option is not None]
    said = {one.item.sample.id: claims_finding(one.claims) for one in claiming}
    told = [one for one in claiming if said[one.item.sample.id] is not None]
    there = [one for one in told if one.scene.finding != NONE]
    absent = [one for one in told if one.scene.finding == NONE]
    unseen = [(holds(claim, one.scene) is None, cluster(one.item)) for one in read for claim in one.claims]
    return {
        "true": claims(None, "claims that are true of the image"),
        **{f"true_{name}": claims(name, f"claims on the {name} that are true") for name in ATTRIBUTES},
        "claiming": among(read, [bool(one.verdicts()) for one in read], "reasonings with a claim to check"),
        "right_for_wrong_reason": among(
            right, [False in one.verdicts() for one in right], "right answers whose reasoning claims something false"
        ),
        "right_against_reason": among(
            right, [one.asked_false for one in right], "right answers whose reasoning is wrong on the very thing asked"
        ),
        "wrong_for_right_reason": among(
            wrong, [False not in one.verdicts() for one in wrong], "wrong answers whose reasoning is true throughout"
        ),
        "sensitivity": among(
            there, [bool(said[one.item.sample.id]) for one in there], "of images with a finding, one is claimed"
        ),
        "specificity": among(
            absent, [not said[one.item.sample.id] for one in absent], "of images without a finding, none is claimed"
        ),
        "cannot_be_seen": share_of_pairs(unseen, "claims that the image cannot bear out"),
    }


def _named(claiming: Sequence[_Read]) -> dict[str, list[str]]:
    def ids(chosen: Sequence[_Read]) -> list[str]:
        return [one.item.sample.id for one in chosen]

    return {
        "right for a wrong reason": ids([one for one in claiming if one.item.right() and False in one.verdicts()]),
        "wrong for a right reason": ids(
            [
                one
                for one in claiming
                if not one.item.right() and one.item.real.option is not None and False not in one.verdicts()
            ]
        ),
        "finding missed": ids([one for one in claiming if one.scene.finding != NONE and _says(one) is False]),
        "finding made up": ids([one for one in claiming if one.scene.finding == NONE and _says(one) is True]),
    }


def _says(one: _Read) -> bool | None:
    return claims_finding(one.claims)


def _by_kind(claiming: Sequence[_Read]) -> dict[str, dict[str, int]]:
    """By kind of finding in the image: reasonings that speak of findings, that claim one, and that claim this kind."""
    told = [one for one in claiming if _says(one) is not None]
    table: dict[str, dict[str, int]] = {}
    for kind in sorted({one.scene.finding for one in told} - {NONE}):
        group = [one for one in told if one.scene.finding == kind]
        table[kind] = {
            "n": len(group),
            "a finding claimed": sum(_says(one) is True for one in group),
            "this kind claimed": sum(Claim("finding", kind) in one.claims for one in group),
        }
    return table


def _false(claiming: Sequence[_Read]) -> dict[str, int]:
    """The false claims, how often each was made, most often first."""
    counts = Counter(str(claim) for one in claiming for claim in one.claims if holds(claim, one.scene) is False)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _judge(measures: Mapping[str, Measure]) -> tuple[Level, str]:
    true, claiming = measures["true"], measures["claiming"]
    checked = round(claiming.value * claiming.n)
    low, high = true.ends
    told = (
        f"{true.value:.0%} [{low:.0%}, {high:.0%}] of {true.n} claims in {checked} reasonings are true; "
        f"{measures['right_for_wrong_reason'].value:.0%} of the right answers come with a false claim."
    )
    sensitivity, specificity = measures["sensitivity"], measures["specificity"]
    if sensitivity.n and specificity.n:
        told += f" Findings: sensitivity {sensitivity.value:.0%}, specificity {specificity.value:.0%}."
    if checked < claiming.n:
        told += f" {claiming.n - checked} of {claiming.n} reasonings claim nothing that can be checked."
    if checked < FEWEST:
        verdict, why = too_few(f"{checked} reasonings with a claim to check")
        return verdict, f"{why} {told}"
    if high < UNTRUE:
        return "fail", f"Its claims cannot be trusted: {told}"
    if low >= TRUSTED and claiming.value >= 0.5:
        return "pass", f"Its claims are true: {told}"
    return "warn", f"Its claims need checking: {told}"
