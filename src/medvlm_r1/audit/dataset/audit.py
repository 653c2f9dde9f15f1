"""Audit of a data set: blind baselines, giveaway options and option order, by modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medvlm_r1.audit.dataset.blind import BASELINES, CHANCE, blind_credits, letters_right
from medvlm_r1.audit.dataset.giveaway import GiveawayOption, giveaway_options
from medvlm_r1.audit.dataset.order import OrderTest, order_tests
from medvlm_r1.audit.dataset.prior_source import PriorSource
from medvlm_r1.audit.dataset.verdict import THRESHOLDS, Figure, Verdict, figure, judge
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.score import order_modalities

GIVEAWAYS_SHOWN = 20
"""Giveaway options per modality in the JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityAudit:
    """One modality.

    Attributes:
        items: Its questions with options.
        n_open: Number of its open questions, which no baseline answers.
        credits: By baseline, one credit per item.
        figures: By baseline.
        by_type: By question type, by baseline.
        letters: How often each letter is correct.
        order: Tests of the order of options.
        giveaways: All option texts, the most surprising first.
        verdict: None when all questions are open.
    """

    items: tuple[Sample, ...]
    n_open: int
    credits: dict[str, list[float]]
    figures: dict[str, Figure]
    by_type: dict[str, dict[str, Figure]]
    letters: dict[str, int]
    order: list[OrderTest]
    giveaways: list[GiveawayOption]
    verdict: Verdict | None

    def solved(self, baseline: str) -> list[str]:
        """Ids of the items that a baseline solves: it picks the correct option alone, without a tie."""
        return [
            item.id for item, credit in zip(self.items, self.credits.get(baseline, ()), strict=False) if credit == 1
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAudit:
    """An audited data set; `modalities` are in the order of the paper's table, then alphabetical."""

    modalities: dict[str, ModalityAudit]
    prior_source: PriorSource | None = None

    @property
    def closed(self) -> dict[str, ModalityAudit]:
        """The modalities that have questions with options."""
        return {name: entry for name, entry in self.modalities.items() if entry.items}

    @property
    def n(self) -> int:
        """Number of questions with options."""
        return sum(len(entry.items) for entry in self.modalities.values())

    @property
    def n_open(self) -> int:
        """Number of open questions."""
        return sum(entry.n_open for entry in self.modalities.values())

    @property
    def shared_images(self) -> dict[str, int]:
        """By modality, the number of questions about an image that the prior source has too, by its path."""
        images = self.prior_source.images if self.prior_source else frozenset()
        return {
            name: sum(not images.isdisjoint(item.images) for item in entry.items) for name, entry in self.closed.items()
        }

    @property
    def notes(self) -> list[str]:
        """What was excluded, and why."""
        notes = []
        if self.n_open:
            notes.append(f"Open questions, which have no options to choose from, are left out: {self.n_open}.")
        source = self.prior_source
        if source is None:
            return [*notes, "option_prior_fit is left out: no data to fit it on was named (--fit-on)."]
        if source.modality is not None:
            notes.append(
                f"option_prior_fit is left out for {source.modality}, the questions it was counted on; "
                "option_prior_loo is its honest figure there."
            )
        elif source.shared:
            notes.append(
                f"Questions of {source.name} that are in the audited set too, which are not counted: {source.shared}."
            )
        shared = [(name, k, len(self.modalities[name].items)) for name, k in self.shared_images.items() if k]
        if shared:
            counts = ", ".join(f"{name} {k} of {n} ({100 * k / n:.1f} %)" for name, k, n in shared)
            notes.append(f"Questions about an image that {source.name} shows too, by path: {counts}.")
        return notes

    def record(self) -> dict[str, Any]:
        """The audit as JSON values; docs/reference/audit-data.md explains the keys."""
        parts, source = self.closed, self.prior_source
        names = [name for name in BASELINES if any(name in entry.figures for entry in parts.values())]
        return {
            "n": self.n,
            "n_open": self.n_open,
            "fit_on": source
            and {
                "name": source.name,
                "n": len(source.items),
                "shared": source.shared,
                "shared_images": self.shared_images,
            },
            "baselines": {
                name: {m: asdict(entry.figures[name]) for m, entry in parts.items() if name in entry.figures}
                for name in names
            },
            "by_type": {
                m: {
                    kind: {name: asdict(accuracy) for name, accuracy in figures.items()}
                    for kind, figures in entry.by_type.items()
                }
                for m, entry in parts.items()
            },
            "verdicts": {m: asdict(entry.verdict) for m, entry in parts.items() if entry.verdict},
            "thresholds": THRESHOLDS,
            "letters": {m: entry.letters for m, entry in parts.items()},
            "order": {
                m: [asdict(test) | {"n": test.n, "uneven": test.uneven} for test in entry.order]
                for m, entry in parts.items()
            },
            "telling": {m: list(map(asdict, entry.giveaways[:GIVEAWAYS_SHOWN])) for m, entry in parts.items()},
            "solved": {
                name: {m: entry.solved(name) for m, entry in parts.items() if name in entry.figures} for name in names
            },
            "notes": self.notes,
            "notice": RESEARCH_USE,
        }


def audit_data(samples: Sequence[Sample], prior_source: PriorSource | None = None) -> DataAudit:
    """Run every blind baseline on every modality.

    Args:
        samples: The data set.
        prior_source: What the fitted option prior is counted on; see `find_prior_source`.

    Returns:
        The audit.

    Raises:
        UserError: No question has options.
    """
    names = order_modalities(sample.modality for sample in samples)
    chosen = {name: tuple(s for s in samples if s.modality == name and s.options) for name in names}
    if not any(chosen.values()):
        raise UserError("no question has options, so there is nothing to guess; wanted at least one that has")
    parts = {}
    for (name, items), tests in zip(chosen.items(), order_tests(list(chosen.values())), strict=True):
        # A prior counted on the audited items themselves would only repeat their answers.
        foreign = None if prior_source is None or prior_source.modality == name else prior_source.items
        credits = blind_credits(items, foreign) if items else {}
        figures = _figures(credits, items)
        fitted_on = prior_source.name if prior_source else None
        uneven = any(test.uneven for test in tests)
        parts[name] = ModalityAudit(
            items=items,
            n_open=sum(s.modality == name and not s.options for s in samples),
            credits=credits,
            figures=figures,
            by_type={
                kind: _figures(credits, items, kind) for kind in sorted({item.question_type for item in items} - {""})
            },
            letters=letters_right(items),
            order=tests,
            giveaways=giveaway_options(items),
            verdict=judge(name, figures, fitted_on, letters_uneven=uneven) if items else None,
        )
    return DataAudit(modalities=parts, prior_source=prior_source)


def _figures(credits: dict[str, list[float]], items: Sequence[Sample], kind: str | None = None) -> dict[str, Figure]:
    """The figure of each baseline on the questions of one type; on all by default."""
    rows = [index for index, item in enumerate(items) if kind in (None, item.question_type)]
    clusters = [items[index].cluster for index in rows]
    return {
        name: figure([values[index] for index in rows], clusters, known=name == CHANCE)
        for name, values in credits.items()
    }
