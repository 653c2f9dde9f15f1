"""Splits: parts of a data set with the same mix of questions and no subject, volume or image in two of them.

Samples that share a subject, a volume or an image are one cluster and stay together. Clusters are assigned one at a
time, the largest first, each to the part that lacks its kinds of question most. If every cluster is a single sample,
all counts are exact, also by stratum, and this is a stratified random draw.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from scipy.cluster.hierarchy import DisjointSet

from medvlm_r1.data.folder import SAMPLES, copy_images, folder_hash, read_folder, read_info, write_folder
from medvlm_r1.data.modality import modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.subjects import count_file_names
from medvlm_r1.errors import UsageError, UserError

STRATA = ("modality", "question_type")
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LEFT_OUT = ""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Wish:
    """The requested size of a part.

    Attributes:
        name: Name of the part.
        size: A number of samples, a share of them between 0 and 1, or `rest`: all that no other part takes.
    """

    name: str
    size: int | float | Literal["rest"]

    def __str__(self) -> str:
        return f"{self.name}={self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The samples of each part, in the order of the source.

    Attributes:
        parts: Name to samples.
        wanted: Requested number of samples by name.
        left_out: Samples in no part.
        clusters: Groups of samples that share a subject, a volume or an image.
        largest_cluster: Samples in the largest of them.
    """

    parts: dict[str, list[Sample]]
    wanted: dict[str, int]
    left_out: list[Sample]
    clusters: int
    largest_cluster: int


def parse_wish(text: str) -> Wish:
    """Read `train=600`, `test=0.2` or `test=rest`.

    Raises:
        UsageError: The text is none of these.
    """
    name, equals, size = text.partition("=")
    if not equals or not _PART_NAME.fullmatch(name):
        raise UsageError(f"--part {text!r}; wanted NAME=SIZE, the name of letters and digits, such as train=600")
    if size == "rest":
        return Wish(name, "rest")
    if re.fullmatch(r"[1-9][0-9]*", size):
        return Wish(name, int(size))
    if re.fullmatch(r"0?\.[0-9]+", size) and float(size) > 0:
        return Wish(name, float(size))
    raise UsageError(f"--part {text!r}; wanted a number of samples (600), a share between 0 and 1 (0.2), or rest")


def ties(sample: Sample) -> list[tuple[str, str]]:
    """Keys that link samples of one cluster: the subject, and the volumes of image slices."""
    subject = [("subject", sample.subject)] if sample.subject else []
    return [*subject, *(("volume", name) for name in sample.image_sources)]


def grouped(keys: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Group what shares a key, directly or through others.

    Args:
        keys: Keys of each item. An item without keys is its own group.

    Returns:
        Positions in `keys`, in ascending order within a group; groups by their first position.
    """
    joined: DisjointSet = DisjointSet(range(len(keys)))
    for position, own_keys in enumerate(keys):
        for key in own_keys:
            joined.add(("key", key))
            joined.merge(position, ("key", key))
    groups: dict[Hashable, list[int]] = {}
    for position in range(len(keys)):
        groups.setdefault(joined[position], []).append(position)
    return list(groups.values())


def clusters(samples: Sequence[Sample]) -> list[list[int]]:
    """Group the samples that share a subject, a volume or an image, directly or through others.

    Args:
        samples: In the order of the source.

    Returns:
        Positions in `samples`, in ascending order within a cluster; clusters by their first position.
    """
    return grouped([[*ties(sample), *(("image", name) for name in sample.images)] for sample in samples])


def split_samples(
    samples: Sequence[Sample], wishes: Sequence[Wish], *, by: Sequence[str] = STRATA, seed: int = 0
) -> Split:
    """Draw disjoint parts, none of which shares a subject, a volume or an image with another.

    Each part gets its share of every stratum (largest remainder, so the counts add up). A cluster is never divided,
    so a part may exceed its count by less than the largest cluster, or lack what others exceed theirs by.

    Args:
        samples: Samples to draw from.
        wishes: The parts.
        by: Fields whose mix shall be alike in all parts: `modality`, `question_type`, or none.
        seed: The same arguments give the same split.

    Returns:
        The split.

    Raises:
        UsageError: No part, two of one name, two that take the rest, or an unknown field.
        UserError: More samples are requested than exist, or the clusters leave a part empty.
    """
    for field in by:
        if field not in STRATA:
            raise UsageError(f"--by {field!r}; {did_you_mean(field, STRATA)}")
    wanted = _sizes(wishes, len(samples))
    strata = [tuple(getattr(sample, field) for field in by) for sample in samples]
    need = _targets(Counter(strata), wanted)
    groups = clusters(samples)
    order = list(groups)
    random.Random(seed).shuffle(order)
    taken: dict[str, list[int]] = {name: [] for name in need}
    for group in sorted(order, key=len, reverse=True):
        kinds = Counter(strata[position] for position in group)
        name = min(need, key=lambda part: _misfit(kinds, need[part]))
        need[name].subtract(kinds)
        taken[name] += group
    parts = {name: [samples[position] for position in sorted(taken[name])] for name in wanted}
    largest = max(len(group) for group in groups)
    for name, chosen in parts.items():
        if not chosen:
            raise UserError(
                f"part {name!r} would be empty: the {len(samples)} samples form {len(groups)} groups that share a "
                f"subject, a volume or an image, the largest of {largest}, and a group is never divided; ask for fewer "
                "parts or other sizes"
            )
    left_out = [samples[position] for position in sorted(taken[_LEFT_OUT])]
    return Split(parts=parts, wanted=wanted, left_out=left_out, clusters=len(groups), largest_cluster=largest)


def _misfit(kinds: Counter[tuple[str, ...]], need: Counter[tuple[str, ...]]) -> tuple[float, ...]:
    """How badly a cluster fits a part: beyond its count, then beyond its strata; of equals, the emptier part."""
    beyond = (kinds - +need).total()
    room = min(need[kind] / count for kind, count in kinds.items())
    return max(0, kinds.total() - max(0, need.total())), beyond, -room


def _sizes(wishes: Sequence[Wish], n: int) -> dict[str, int]:
    if not wishes:
        raise UsageError("no part was asked for; give at least one, such as --part train=600")
    for name, times in Counter(wish.name for wish in wishes).items():
        if times > 1:
            raise UsageError(f"part {name!r} was asked for twice; give each part once")
    shares = {wish.name: wish.size for wish in wishes if isinstance(wish.size, float)}
    rest = [wish.name for wish in wishes if wish.size == "rest"]
    if len(rest) > 1:
        raise UsageError(f"the parts {' and '.join(rest)} both take the rest; only one can")
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"the shares add up to {sum(shares.values()):.6g}; they can be at most 1")
    # Largest remainder with what no share takes as one more: shares that add up to 1 take every sample.
    portions = _apportion({**shares, _LEFT_OUT: max(0.0, 1 - sum(shares.values()))}, n)
    sizes = {wish.name: wish.size if isinstance(wish.size, int) else portions.get(wish.name, 0) for wish in wishes}
    total = sum(sizes.values())
    request = ", ".join(map(str, wishes))
    if total > n or (rest and total == n):
        raise UserError(f"{request}: {total + len(rest)} samples or more were asked for, but there are {n}")
    for name in rest:
        sizes[name] = n - total
    for name, size in sizes.items():
        if size == 0:
            raise UserError(
                f"{request}: part {name!r} would be empty, as there are {n} samples; ask for a larger share"
            )
    return sizes


def _targets(available: Counter[tuple[str, ...]], wanted: Mapping[str, int]) -> dict[str, Counter[tuple[str, ...]]]:
    """Samples of each stratum that each part shall have; what is left is a part of its own."""
    left = Counter(available)
    targets = {}
    for name, size in wanted.items():
        targets[name] = Counter(_apportion({kind: float(count) for kind, count in sorted(left.items())}, size))
        left -= targets[name]
    targets[_LEFT_OUT] = left
    return targets


def _apportion(weights: Mapping[Key, float], total: int) -> dict[Key, int]:
    """Whole numbers in proportion to the weights that add up to the total (largest remainder, the first of equals)."""
    whole = sum(weights.values())
    quotas = {key: total * weight / whole for key, weight in weights.items()}
    counts = {key: int(quota + 1e-9) for key, quota in quotas.items()}
    by_remainder = sorted(weights, key=lambda key: counts[key] - quotas[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """A record of one written part.

    Attributes:
        folder: The data folder.
        wanted: Number of samples requested.
        samples: Samples written; differs from `wanted` where a subject or an image keeps several together.
        missing: Number of these samples with a missing image file.
        subjects: Different subjects among them; samples without a subject are not counted.
        by_stratum: Samples by modality and question type, joined by a comma.
    """

    folder: str
    wanted: int
    samples: int
    missing: int
    subjects: int
    by_stratum: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """A record of a split.

    Attributes:
        parts: By name.
        left_out: Samples that were chosen from and are in no part.
        clusters: Groups of samples that share a subject, a volume or an image.
        largest_cluster: Samples in the largest of them.
        old_splits: Names of the splits the samples were in before, which the new ones replace.
        file_name_subjects: Samples whose subject is only the name of an image file.
    """

    parts: dict[str, PartReport]
    left_out: int
    clusters: int
    largest_cluster: int
    old_splits: list[str]
    file_name_subjects: int

    def as_record(self) -> dict[str, Any]:
        """This record as plain values for JSON."""
        return asdict(self)


def split_folder(
    source: str | Path,
    out: str | Path,
    wishes: Sequence[Wish],
    *,
    by: Sequence[str] = STRATA,
    modalities: Iterable[str] = (),
    question_types: Iterable[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SplitReport:
    """Split a data folder; see `split_samples` for how.

    Args:
        source: The data folder.
        out: Parent folder. Each part gets a subfolder with its name.
        wishes: The parts.
        by: Fields whose mix shall be alike in all parts.
        modalities: Choose from these only, in any known spelling; all when empty.
        question_types: Choose from these only; all when empty.
        seed: The same arguments on the same data give the same bytes.
        progress: Called with (images copied, images in all).

    Returns:
        The report.

    Raises:
        UsageError: As `split_samples`.
        UserError: As `read_folder` and `split_samples`; nothing has a wanted modality or question type; a part's
            folder holds a data set already; or writing fails.
    """
    source, out = Path(source), Path(out)
    for wish in wishes:
        if (out / wish.name / SAMPLES).exists():
            raise UserError(f"{out / wish.name}: holds a data set already; give another --out, or remove it first")
    wanted = {"modality": list(modalities), "question_type": list(question_types)}
    samples = _choose(source, read_folder(source), wanted)
    split = split_samples(samples, wishes, by=by, seed=seed)
    # The source's counts and split are not those of a part.
    described = {"name": source.resolve().name} | read_info(source)
    described.pop("counts", None)
    history = {
        "of": source.resolve().name,
        "folder_hash": folder_hash(source),
        "wishes": [str(wish) for wish in wishes],
        "by": list(by),
        "chosen": {field: names for field, names in wanted.items() if names},
        "seed": seed,
        "samples": len(samples),
        "clusters": split.clusters,
    }
    copies = {(image, out / name): None for name, part in split.parts.items() for s in part for image in s.images}
    absent = copy_images(source, list(copies), progress)
    reports = {}
    # All images are in place before the first samples.jsonl is, so an interrupted split can be started again.
    for name, part in split.parts.items():
        written = [
            replace(s, split=name, missing=s.unnamed_image or any(image in absent for image in s.images)) for s in part
        ]
        write_folder(out / name, written, info={**described, "split": {"part": name, **history}})
        strata = Counter(", ".join(filter(None, (s.modality, s.question_type))) for s in written)
        reports[name] = PartReport(
            folder=str(out / name),
            wanted=split.wanted[name],
            samples=len(written),
            missing=sum(sample.missing for sample in written),
            subjects=len({sample.subject for sample in written if sample.subject}),
            by_stratum=dict(sorted(strata.items())),
        )
    return SplitReport(
        parts=reports,
        left_out=len(split.left_out),
        clusters=split.clusters,
        largest_cluster=split.largest_cluster,
        old_splits=sorted({sample.split for sample in samples if sample.split}),
        file_name_subjects=count_file_names(samples, described),
    )


def _choose(source: Path, samples: Sequence[Sample], wanted: dict[str, list[str]]) -> list[Sample]:
    chosen = list(samples)
    for field, names in wanted.items():
        present = {getattr(sample, field).casefold(): getattr(sample, field) for sample in samples}
        matches = set()
        for name in names:
            known = modality_name(name) if field == "modality" else None
            match = present.get((known or name).casefold())
            if not match:
                near = did_you_mean(name, filter(None, present.values()))
                raise UserError(f"{source}: no sample has the {field.replace('_', ' ')} {name!r}; {near}")
            matches.add(match)
        chosen = [sample for sample in chosen if not names or getattr(sample, field) in matches]
    if not chosen:
        raise UserError(f"{source}: no sample has both a wanted modality and a wanted question type; choose others")
    return chosen
