"""Audit of a data set by modality: blind baselines, giveaway options and option order, with a verdict.

The verdict tells whether the questions can be answered without the image.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medvlm_r1.audit.dataset import baselines
from medvlm_r1.data.folder import SAMPLES, read_folder
from medvlm_r1.data.modality import modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.evaluation.statistics import clustered_wilson, wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSource:
    """Questions on which the fitted option prior is estimated.

    Attributes:
        name: Name of the modality or the folder, for display.
        items: The questions, all with options.
        modality: Their modality if they are part of the audited set; None if they come from another folder.
        shared: Number of questions in the folder that are also in the audited set. They are not in `items`.
        images: Paths of all images in the folder; empty for a modality of the audited set.
    """

    name: str
    items: tuple[Sample, ...]
    modality: str | None = None
    shared: int = 0
    images: frozenset[str] = frozenset()


def find_prior_source(wish: str, folder: Path, samples: Sequence[Sample]) -> PriorSource:
    """Find the prior source that `--fit-on` names.

    Args:
        wish: A modality of the audited set, in any known spelling, or a data folder. A folder that has the name of a
            modality is written as `./MRI`.
        folder: The audited data folder.
        samples: The samples of `folder`.

    Raises:
        UsageError: `wish` is neither a modality nor a data folder, or it is the audited folder itself.
        UserError: The folder cannot be read, or none of its questions can be used.
    """
    present = order_modalities(sample.modality for sample in samples)
    modality = wish if wish in present else modality_name(wish)
    if modality in present:
        items = tuple(s for s in samples if s.modality == modality and s.options)
        if not items:
            raise UserError(f"--fit-on {wish}: all {modality} questions of {folder} are open; nothing can be counted")
        return PriorSource(name=modality, items=items, modality=modality)
    path = Path(wish)
    if not (path / SAMPLES).is_file():
        raise UsageError(
            f"--fit-on {wish!r} is neither a data folder nor a modality of {folder}; {did_you_mean(wish, present)}"
        )
    if os.path.samefile(path, folder):
        raise UsageError(
            f"--fit-on {wish} is the audited folder itself; name another one or one of its modalities, "
            "or leave --fit-on out: option_prior_loo is the figure within a set"
        )
    everything = read_folder(path)
    counted = [sample for sample in everything if sample.options]
    own = {_identity(sample) for sample in samples if sample.images}
    items = tuple(sample for sample in counted if _identity(sample) not in own)
    if not items:
        why = "are all in the audited set too" if counted else "are all open"
        raise UserError(f"--fit-on {wish}: its questions {why}; nothing can be counted. Name another folder")
    images = frozenset(image for sample in everything for image in sample.images)
    return PriorSource(name=path.resolve().name, items=items, shared=len(counted) - len(items), images=images)


def _identity(sample: Sample) -> tuple[tuple[str, ...], str, frozenset[str]]:
    return sample.images, sample.question, frozenset(sample.options)


GIVEAWAYS_SHOWN = 20
"""Number of giveaway options per modality in the JSON output."""

MARGIN = 10.0
"""A data set fails if the interval of a blind baseline lies at least this many percentage points above chance."""

HOPELESS = 80.0
"""Accuracy of a blind baseline, in percent, from which no model accuracy on the data set is evidence of image use."""

THRESHOLDS = {
    "fail": f"the interval of a blind baseline lies {MARGIN:.0f} points or more above chance",
    "warn": "the interval of a blind baseline lies above chance, by less than that",
    "not run": f"no interval lies above chance, but one reaches {MARGIN:.0f} points above: too few questions",
    "pass": f"no interval lies above chance, and none reaches {MARGIN:.0f} points above it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The accuracy of one baseline.

    Attributes:
        n: Number of questions.
        percent: Mean credit in percent.
        ci95: 95 % interval in percent. For chance, both ends equal `percent`, because chance is known and not
            estimated.
    """

    n: int
    percent: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The verdict on a modality, based on all baselines.

    Attributes:
        level: "fail", "warn", "not run" or "pass"; see `THRESHOLDS`.
        baseline: The decisive baseline. Its interval has the highest lower end or, for "not run", the highest upper
            end.
        sentence: The verdict in words.
    """

    level: str
    baseline: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalityAudit:
    """The audit of one modality.

    Attributes:
        items: Its questions with options; at least one.
        credits: For each baseline, one credit per item.
        figures: The accuracy of each baseline.
        by_type: The accuracy of each baseline, for each question type.
        letters: For each letter, how often it is correct.
        order: Tests of the order of options.
        giveaways: All option texts, sorted by decreasing absolute value of `surprise`.
        verdict: The verdict.
    """

    items: tuple[Sample, ...]
    credits: dict[str, list[float]]
    figures: dict[str, Figure]
    by_type: dict[str, dict[str, Figure]]
    letters: dict[str, int]
    order: list[baselines.OrderTest]
    giveaways: list[baselines.GiveawayOption]
    verdict: Verdict

    def solved(self, baseline: str) -> list[str]:
        """Ids of the items that a baseline solves: it chooses only the correct option, without a tie."""
        credits = self.credits.get(baseline, [])
        return [item.id for item, credit in zip(self.items, credits, strict=False) if credit == 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAudit:
    """The audit of a data set.

    Attributes:
        modalities: The modalities that have questions with options: those of the paper's table first, then the others
            alphabetically.
        n_open: Number of open questions, which no baseline answers.
        prior_source: Questions on which the fitted option prior was estimated; None if that baseline was skipped.
    """

    modalities: dict[str, ModalityAudit]
    n_open: int
    prior_source: PriorSource | None = None

    @property
    def baselines(self) -> list[str]:
        """Names of the baselines that were run."""
        return [
            name for name in baselines.BASELINES if any(name in entry.figures for entry in self.modalities.values())
        ]

    @property
    def n(self) -> int:
        """Number of questions with options."""
        return sum(len(entry.items) for entry in self.modalities.values())

    @property
    def shared_images(self) -> dict[str, int]:
        """For each modality, the number of questions with an image whose path is also in the prior source."""
        images = self.prior_source.images if self.prior_source else frozenset()
        return {
            name: sum(not images.isdisjoint(item.images) for item in entry.items)
            for name, entry in self.modalities.items()
        }

    @property
    def notes(self) -> list[str]:
        """Sentences on excluded questions and baselines, and on images shared with the prior source."""
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
        """Convert the audit to JSON values; docs/reference/audit-data.md explains the keys."""
        source = self.prior_source
        plain = {m: asdict(replace(entry, items=())) for m, entry in self.modalities.items()}
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
                name: {m: entry["figures"][name] for m, entry in plain.items() if name in entry["figures"]}
                for name in self.baselines
            },
            "by_type": {m: entry["by_type"] for m, entry in plain.items()},
            "verdicts": {m: entry["verdict"] for m, entry in plain.items()},
            "thresholds": THRESHOLDS,
            "letters": {m: entry["letters"] for m, entry in plain.items()},
            "order": {
                m: [asdict(test) | {"n": test.n, "uneven": test.uneven} for test in entry.order]
                for m, entry in self.modalities.items()
            },
            "telling": {m: entry["giveaways"][:GIVEAWAYS_SHOWN] for m, entry in plain.items()},
            "solved": {
                name: {m: entry.solved(name) for m, entry in self.modalities.items() if name in entry.figures}
                for name in self.baselines
            },
            "notes": self.notes,
            "notice": RESEARCH_USE,
        }


def audit_data(samples: Sequence[Sample], prior_source: PriorSource | None = None) -> DataAudit:
    """Run every blind baseline on every modality.

    Args:
        samples: The samples of the data set.
        prior_source: Questions on which the fitted option prior is estimated (see `find_prior_source`). If None, that
            baseline is skipped.

    Returns:
        The audit.

    Raises:
        UserError: No question has options.
    """
    closed = [sample for sample in samples if sample.options]
    if not closed:
        raise UserError("no question has options, so there is nothing to guess; wanted at least one that has")
    names = order_modalities(sample.modality for sample in closed)
    groups = {name: tuple(sample for sample in closed if sample.modality == name) for name in names}
    modalities = {}
    for (name, items), tests in zip(groups.items(), baselines.order_tests(list(groups.values())), strict=True):
        # A prior counted on the audited items themselves would only repeat their answers.
        foreign = None if prior_source is None or prior_source.modality == name else prior_source.items
        credits = baselines.blind_credits(items, foreign)
        figures = _figures(credits, items)
        uneven = any(test.uneven for test in tests)
        fit = prior_source.name if prior_source else None
        types = sorted({item.question_type for item in items} - {""})
        modalities[name] = ModalityAudit(
            items=items,
            credits=credits,
            figures=figures,
            by_type={kind: _figures(credits, items, kind) for kind in types},
            letters=baselines.letters_right(items),
            order=tests,
            giveaways=baselines.giveaway_options(items),
            verdict=judge(name, figures, fit, letters_uneven=uneven),
        )
    return DataAudit(modalities=modalities, n_open=len(samples) - len(closed), prior_source=prior_source)


def _figures(credits: Mapping[str, list[float]], items: Sequence[Sample], kind: str | None = None) -> dict[str, Figure]:
    """The accuracy of each baseline on the questions of one type, or on all questions by default."""
    rows = [index for index, item in enumerate(items) if kind in (None, item.question_type)]
    clusters = [items[index].cluster for index in rows]
    return {
        name: figure([values[index] for index in rows], clusters, known=name == baselines.CHANCE)
        for name, values in credits.items()
    }


def figure(credits: Sequence[float], clusters: Sequence[Hashable], *, known: bool = False) -> Figure:
    """Compute the mean credit with its Wilson interval.

    Questions on one subject are not independent, so the interval uses their effective sample size. A baseline that ties
    between m options gets the credit 1/m. This credit varies less than an answer that is correct with probability 1/m,
    so ties make the interval conservative (wider than necessary).

    Args:
        credits: One credit per question; at least one.
        clusters: The subject of each question.
        known: Whether the mean is known and not estimated, as for chance. Both ends of the interval then equal the
            mean.
    """
    n = len(credits)
    # A sum of fractions such as 1/3 can exceed n by a rounding error.
    right = min(sum(credits), float(n))
    low, high = (right / n, right / n) if known else clustered_wilson(credits, clusters)
    return Figure(n=n, percent=100 * right / n, ci95=(100 * low, 100 * high))


def questions_needed(chance: float) -> int:
    """The fewest questions for which the interval around `chance` (percent) ends below `chance` plus `MARGIN`."""
    n = 1
    while 100 * wilson(chance / 100 * n, n)[1] >= chance + MARGIN and chance + MARGIN <= 100:
        n += 1
    return n


def label(baseline: str, fit: str | None = None) -> str:
    """Name of a baseline in words. `fit` is the name of the prior source."""
    return {
        baselines.CHANCE: "chance",
        baselines.MAJORITY: "majority letter",
        baselines.LONGEST: "longest option",
        baselines.PRIOR_FIT: f"option prior fitted on {fit or 'other questions'}",
        baselines.PRIOR_LOO: "option prior, leave one out",
    }[baseline]


def judge(
    modality: str, figures: Mapping[str, Figure], fit: str | None = None, *, letters_uneven: bool = True
) -> Verdict:
    """Compute the verdict on one modality.

    Args:
        modality: Its name, for the sentence.
        figures: The accuracy by baseline, for chance and at least one other baseline that counts.
        fit: Name of the prior source, for the sentence.
        letters_uneven: Whether the correct letters are significantly uneven. If not, the majority letter does not
            count: it was selected on the answers themselves, which its interval does not take into account.
    """
    chance = figures[baselines.CHANCE].percent
    excluded = {baselines.CHANCE} if letters_uneven else {baselines.CHANCE, baselines.MAJORITY}
    blind = {name: accuracy for name, accuracy in figures.items() if name not in excluded}
    best = max(blind, key=lambda name: (blind[name].ci95[0], blind[name].percent))
    highest = max(blind, key=lambda name: blind[name].ci95[1])
    low, high = blind[best].ci95[0], blind[highest].ci95[1]
    # A rounding error must not move a baseline that is exactly at a threshold to the other side.
    above = low > chance + 1e-9
    if not above and high >= chance + MARGIN:
        best = highest
    n, percent = blind[best].n, blind[best].percent
    source = f"{label(best, fit)}; chance {chance:.0f} %"
    answerable = f"{percent:.0f} % of the {modality} questions can be answered without the image ({source}): "
    if low >= chance + MARGIN - 1e-9:
        accuracy = "an accuracy on this set" if percent >= HOPELESS else "an accuracy no better than that"
        level, sentence = "fail", f"{answerable}{accuracy} is no evidence of image use."
    elif above:
        level, sentence = "warn", f"{answerable}compare an accuracy with that figure, not with chance."
    elif high >= chance + MARGIN:
        questions = f"One {modality} question is" if n == 1 else f"{n} {modality} questions are"
        level = "not run"
        sentence = (
            f"{questions} too few for a verdict; at least {questions_needed(chance)} are needed. "
            f"A blind baseline gets {percent:.0f} % ({source}), and up to {high:.0f} % would fit."
        )
    else:
        level = "pass"
        sentence = (
            f"No blind baseline beats chance on the {n} {modality} questions: "
            f"the best of them gets {percent:.0f} % ({source})."
        )
    return Verdict(level=level, baseline=best, sentence=sentence)
