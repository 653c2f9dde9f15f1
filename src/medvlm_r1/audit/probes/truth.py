"""Truth probe: are the reasoning's claims true, compared with PhantomVQA's record of the image?

`medvlm_r1.audit.claims` defines what a claim is. A claim that the image cannot decide (a side in a sagittal plane) is
counted separately and is neither true nor false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medvlm_r1.audit.claims import ATTRIBUTES, Claim, claims_finding, holds, question_attribute, read_claims, scene_of
from medvlm_r1.audit.measures import FEWEST, in_order, share, too_few
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeResult
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.phantom.findings import NONE
from medvlm_r1.phantom.scene import Scene

TRUSTED, UNTRUE = 0.90, 0.75
"""Shares of true claims: pass from nine in ten, because a reader who must check more than one in ten checks all. Fail
below three in four, where one of four claims is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reasoning:
    """An item with its record and the claims of its reasoning."""

    item: AuditedItem
    scene: Scene
    claims: tuple[Claim, ...]

    def verdicts(self, attribute: str | None = None) -> list[bool]:
        """Truth of the claims that the image can decide, on one attribute or all."""
        verdicts = [holds(claim, self.scene) for claim in self.claims if attribute in (None, claim.attribute)]
        return [verdict for verdict in verdicts if verdict is not None]

    @property
    def has_false(self) -> bool:
        """Whether a claim is false."""
        return False in self.verdicts()

    @property
    def correct(self) -> bool:
        """Whether the answer is correct."""
        return self.item.correct()

    @property
    def wrong(self) -> bool:
        """Whether the answer is another option than the correct one."""
        return not self.item.correct() and self.item.real.option is not None

    @property
    def present(self) -> bool:
        """Whether the image shows a finding."""
        return self.scene.finding != NONE

    @property
    def claimed(self) -> bool | None:
        """Whether a finding is claimed; None where neither or both are."""
        return claims_finding(self.claims)


_Test = Callable[[_Reasoning], bool]


class TruthProbe(Probe):
    """The claims of the real answer's reasoning. Needs no variant."""

    name = "truth"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Shares of true claims, in all and by attribute, and the relation of answers and claims."""
        read = [reasoning for item in in_order(items) if (reasoning := _read(item)) is not None]
        if not read:
            return self.result(
                ("not run", "The data have no record of what the images show: the truth of claims is unknown.")
            )
        claiming = [reasoning for reasoning in read if reasoning.verdicts()]
        if not claiming:
            why = f"None of {len(read)} reasonings makes a claim that the record can decide."
            return self.result(("not run", why))

        def ids(reasonings: Sequence[_Reasoning], test: _Test) -> list[str]:
            return [reasoning.item.sample.id for reasoning in reasonings if test(reasoning)]

        measures = _measures(read, claiming)
        return self.result(
            _judge(measures),
            measures=measures,
            items={
                "correct for a wrong reason": ids(claiming, lambda r: r.correct and r.has_false),
                "wrong for a correct reason": ids(claiming, lambda r: r.wrong and not r.has_false),
                "finding missed": ids(claiming, lambda r: r.present and r.claimed is False),
                "finding made up": ids(claiming, lambda r: not r.present and r.claimed is True),
                "no claim to check": ids(read, lambda r: not r.verdicts()),
            },
            detail={"finding_by_kind": _by_kind(claiming), "false_claims": _false(claiming)},
            thresholds={
                "true": f"pass from {TRUSTED} at the lower end, fail below {UNTRUE} at the upper end",
                "claiming": f"not run below {FEWEST} reasonings with claims; no pass where half make none",
            },
        )


def _read(item: AuditedItem) -> _Reasoning | None:
    """The claims; None without a record. Without a reasoning tag the whole text is parsed."""
    scene = scene_of(item.sample)
    if scene is None:
        return None
    return _Reasoning(item=item, scene=scene, claims=tuple(read_claims(item.reasoning(), item.sample.options)))


def _measures(read: Sequence[_Reasoning], claiming: Sequence[_Reasoning]) -> dict[str, Measure]:
    """All shares, including those of no items (0 of 0)."""

    def among(reasonings: Sequence[_Reasoning], test: _Test, about: str) -> Measure:
        return share([(test(reasoning), reasoning.item.cluster) for reasoning in reasonings], about)

    def claims(attribute: str | None, about: str) -> Measure:
        return share([(true, r.item.cluster) for r in claiming for true in r.verdicts(attribute)], about)

    right = [r for r in claiming if r.correct]
    decided = [r for r in claiming if r.claimed is not None]
    unseen = [(holds(claim, r.scene) is None, r.item.cluster) for r in read for claim in r.claims]
    return {
        "true": claims(None, "claims that are true of the image"),
        **{f"true_{name}": claims(name, f"claims on the {name} that are true") for name in ATTRIBUTES},
        "claiming": among(read, lambda r: bool(r.verdicts()), "reasonings with a claim to check"),
        "right_for_wrong_reason": among(
            right, lambda r: r.has_false, "correct answers whose reasoning has a false claim"
        ),
        "right_against_reason": among(
            right,
            lambda r: False in r.verdicts(question_attribute(r.item.sample, r.scene) or ""),
            "correct answers whose reasoning is wrong on the questioned attribute",
        ),
        "wrong_for_right_reason": among(
            [r for r in claiming if r.wrong], lambda r: not r.has_false, "wrong answers whose claims are all true"
        ),
        "sensitivity": among(
            [r for r in decided if r.present], lambda r: bool(r.claimed), "a finding is claimed, among images with one"
        ),
        "specificity": among(
            [r for r in decided if not r.present],
            lambda r: not r.claimed,
            "no finding is claimed, among images without one",
        ),
        "cannot_be_seen": share(unseen, "claims that the image cannot decide"),
    }


def _by_kind(claiming: Sequence[_Reasoning]) -> dict[str, dict[str, int]]:
    """By kind of finding in the image: reasonings about findings, that claim one, and that claim this kind."""
    decided = [r for r in claiming if r.present and r.claimed is not None]
    table: dict[str, dict[str, int]] = {}
    for kind in sorted({r.scene.finding for r in decided}):
        group = [r for r in decided if r.scene.finding == kind]
        table[kind] = {
            "n": len(group),
            "a finding claimed": sum(r.claimed is True for r in group),
            "this kind claimed": sum(Claim("finding", kind) in r.claims for r in group),
        }
    return table


def _false(claiming: Sequence[_Reasoning]) -> dict[str, int]:
    """Counts of the false claims, the most frequent first."""
    counts = Counter(str(claim) for r in claiming for claim in r.claims if holds(claim, r.scene) is False)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _judge(measures: Mapping[str, Measure]) -> Judged:
    true, claiming = measures["true"], measures["claiming"]
    checked = claiming.count
    low, high = true.ends
    summary = (
        f"{true.value:.0%} {true.interval()} of {true.n} claims in {checked} reasonings are true; "
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
