"""Truth probe: are the claims of the reasoning true, compared with the data set's record of the image?

PhantomVQA and questions from volumes have such records.

`medvlm_r1.audit.claims` defines what a claim is. A claim that cannot be decided from the image, such as a side in a
sagittal plane, is counted separately as neither true nor false.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from medvlm_r1.audit.claims import (
    ATTRIBUTES,
    Claim,
    SliceRecord,
    checked_claims,
    claims_finding,
    question_attribute,
    record_of,
)
from medvlm_r1.audit.measures import FEWEST, ids, share, too_few
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeResult
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.phantom.scene import NONE, Scene

TRUSTED, UNTRUE = 0.90, 0.75
"""Thresholds for the share of true claims. The probe passes from nine in ten: a reader who must check more than one
claim in ten has to check them all. It fails below three in four, where more than one claim in four is false."""


class _Reasoning(NamedTuple):
    """An item with the record of its image and the claims of its reasoning.

    Attributes:
        item: The audited item.
        scene: The record of the image.
        claims: For each claim, whether it is true; None if the image does not decide the claim.
        claimed: Whether the claims state that a finding is present; None if they state neither or both.
    """

    item: AuditedItem
    scene: Scene | SliceRecord
    claims: Mapping[Claim, bool | None]
    claimed: bool | None

    @property
    def decidable(self) -> bool:
        """Whether at least one claim can be decided from the image."""
        return any(truth is not None for truth in self.claims.values())

    @property
    def has_false(self) -> bool:
        """Whether at least one claim is false."""
        return False in self.claims.values()


class TruthProbe(Probe):
    """The claims in the reasoning of the answer to the original question. This probe needs no variants."""

    name = "truth"

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the shares of true claims, and how often true or false claims come with correct or wrong answers."""
        read = [reasoning for item in items if (reasoning := _read(item)) is not None]
        if not read:
            return self.result(
                ("not run", "The data have no record of what the images show: the truth of claims is unknown.")
            )
        claiming = [r for r in read if r.decidable]
        if not claiming:
            why = f"None of {len(read)} reasonings makes a claim that the record can decide."
            return self.result(("not run", why))
        right = [r for r in claiming if r.item.correct()]
        wrong = [r for r in claiming if not r.item.correct() and r.item.real.option is not None]
        # It is unknown for volumes without segmented lesions.
        present = [r for r in claiming if r.scene.finding not in (NONE, "")]
        absent = [r for r in claiming if r.scene.finding == NONE]
        claimed = [r for r in present if r.claimed is not None]

        def of(group: Sequence[_Reasoning], test: Callable[[_Reasoning], bool], about: str) -> Measure:
            return share([(test(r), r.item.cluster) for r in group], about)

        def true(about: str, attribute: str | None = None) -> Measure:
            return share([(truth, r.item.cluster) for r in claiming for truth in _truths(r, attribute)], about)

        def against(r: _Reasoning) -> bool:
            return False in _truths(r, question_attribute(r.item.sample, r.scene) or "")

        unseen = [(truth is None, r.item.cluster) for r in read for truth in r.claims.values()]
        without = "no finding is claimed, among images without one"
        measures = {
            "true": true("claims that are true of the image"),
            **{f"true_{name}": true(f"claims on the {name} that are true", name) for name in ATTRIBUTES},
            "claiming": of(read, lambda r: r.decidable, "reasonings with a claim to check"),
            "right_for_wrong_reason": of(
                right, lambda r: r.has_false, "correct answers whose reasoning has a false claim"
            ),
            "right_against_reason": of(
                right, against, "correct answers whose reasoning is wrong on the questioned attribute"
            ),
            "wrong_for_right_reason": of(wrong, lambda r: not r.has_false, "wrong answers whose claims are all true"),
            "sensitivity": of(claimed, lambda r: bool(r.claimed), "a finding is claimed, among images with one"),
            "specificity": of([r for r in absent if r.claimed is not None], lambda r: not r.claimed, without),
            "cannot_be_seen": share(unseen, "claims that the image cannot decide"),
        }
        if not measures["true_structure"].n:
            del measures["true_structure"]
        examples = {
            "correct for a wrong reason": [r for r in right if r.has_false],
            "wrong for a correct reason": [r for r in wrong if not r.has_false],
            "finding missed": [r for r in present if r.claimed is False],
            "finding made up": [r for r in absent if r.claimed is True],
            "no claim to check": [r for r in read if not r.decidable],
        }
        by_kind = {kind: [r for r in claimed if r.scene.finding == kind] for kind in {r.scene.finding for r in claimed}}
        false = Counter(str(claim) for r in claiming for claim, truth in r.claims.items() if truth is False)
        return self.result(
            _judge(measures),
            measures=measures,
            items={name: ids(r.item for r in group) for name, group in examples.items()},
            detail={
                "finding_by_kind": {
                    kind: {
                        "n": len(group),
                        "a finding claimed": sum(r.claimed is True for r in group),
                        "this kind claimed": sum(Claim("finding", kind) in r.claims for r in group),
                    }
                    for kind, group in sorted(by_kind.items())
                },
                "false_claims": dict(sorted(false.items(), key=lambda pair: (-pair[1], pair[0]))),
            },
            thresholds={
                "true": f"pass from {TRUSTED} at the lower end, fail below {UNTRUE} at the upper end",
                "claiming": f"not run below {FEWEST} reasonings with claims; no pass where half make none",
            },
        )


def _read(item: AuditedItem) -> _Reasoning | None:
    """Parse the claims of an item; None if it has no record. Without a reasoning tag, the whole text is parsed."""
    scene = record_of(item.sample)
    if scene is None:
        return None
    claims = checked_claims(item.reasoning(), item.sample.options, scene)
    return _Reasoning(item, scene, claims, claims_finding(list(claims)))


def _truths(reasoning: _Reasoning, attribute: str | None = None) -> list[bool]:
    """Truth of the claims that can be decided from the image, for one attribute or for all attributes."""
    return [
        truth for claim, truth in reasoning.claims.items() if truth is not None and attribute in (None, claim.attribute)
    ]


def _judge(measures: Mapping[str, Measure]) -> Judged:
    true, claiming = measures["true"], measures["claiming"]
    checked = claiming.count
    low, high = true.ends
    summary = (
        f"{true.span} of {true.n} claims in {checked} reasonings are true; "
        f"{measures['right_for_wrong_reason'].percent} of the correct answers come with a false claim."
    )
    sensitivity, specificity = measures["sensitivity"], measures["specificity"]
    if sensitivity.n and specificity.n:
        summary += (
            f" It claims a finding in {sensitivity.percent} of the images with one, and none in {specificity.percent}"
            " of the images without."
        )
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
