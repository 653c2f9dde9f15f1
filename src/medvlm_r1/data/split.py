"""Split a data set into parts with the same mix of questions and no common subject, volume or image.

Samples that share a subject, a volume or an image form one cluster and stay together. Clusters are assigned one at a
time, the largest first. Each goes to the part that most lacks its modalities and question types. If every cluster is a
single sample, all counts are exact, also by stratum, and the result is a stratified random sample.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from scipy.cluster.hierarchy import DisjointSet

from medvlm_r1.data.folder import SAMPLES, folder_hash, read_folder, read_info, write_subsets
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
        size: A number of samples, a share of all samples between 0 and 1, or `rest` for all samples that no other part
            takes.
    """

    name: str
    size: int | float | Literal["rest"]

    def __str__(self) -> str:
        return f"{self.name}={self.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The result of a split: the samples of each part, in the order of the source.

    Attributes:
        parts: Samples of each part, by name of the part.
        wanted: Requested number of samples, by name of the part.
        left_out: Samples that are in no part.
        clusters: Number of clusters, that is, groups of samples that share a subject, a volume or an image.
        largest_cluster: Number of samples in the largest cluster.
    """

    parts: dict[str, list[Sample]]
    wanted: dict[str, int]
    left_out: list[Sample]
    clusters: int
    largest_cluster: int


def parse_wish(text: str) -> Wish:
    """Parse the requested size of a part: `train=600`, `test=0.2` or `test=rest`.

    Raises:
        UsageError: The text has another form.
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
    """Keys that link the samples of a cluster: the subject, and the volumes that image slices were taken from."""
    subject = [("subject", sample.subject)] if sample.subject else []
    return [*subject, *(("volume", name) for name in sample.image_sources)]


def grouped(keys: Sequence[Sequence[Hashable]]) -> list[list[int]]:
    """Group items that share a key, directly or through other items.

    Args:
        keys: Keys of each item. An item without keys forms its own group.

    Returns:
        Indices of the items in each group, in ascending order. Groups are ordered by their first index.
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
    """Group the samples that share a subject, a volume or an image, directly or through other samples.

    Returns:
        Indices of the samples in each cluster, in ascending order. Clusters are ordered by their first index.
    """
    return grouped([[*ties(sample), *(("image", name) for name in sample.images)] for sample in samples])


def split_samples(
    samples: Sequence[Sample], wishes: Sequence[Wish], *, by: Sequence[str] = STRATA, seed: int = 0
) -> Split:
    """Draw disjoint parts, none of which shares a subject, a volume or an image with another.

    Each part gets its share of every stratum, rounded by the largest-remainder method so that the counts add up. A
    cluster is never divided, so a part may be larger or smaller than requested. The excess of a part is smaller than
    the largest cluster.

    Args:
        samples: Samples to draw from.
        wishes: Names and requested sizes of the parts.
        by: Fields whose distribution should be the same in all parts: `modality`, `question_type`, both or none.
        seed: Random seed. The same arguments give the same split.

    Returns:
        The split.

    Raises:
        UsageError: No part is requested, two parts have the same name or both take the rest, or a field is unknown.
        UserError: More samples are requested than exist, or a part would be empty.
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
    """Rank, lower is better: samples above the size of the part, samples above its strata, and little space left."""
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
    # Largest-remainder method, with the share that is left as a further part. Shares that add up to 1 take every
    # sample.
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
    """Target number of samples in each stratum of each part. The samples that are left form a part of their own."""
    left = Counter(available)
    targets = {}
    for name, size in wanted.items():
        targets[name] = Counter(_apportion({kind: float(count) for kind, count in sorted(left.items())}, size))
        left -= targets[name]
    targets[_LEFT_OUT] = left
    return targets


def _apportion(weights: Mapping[Key, float], total: int) -> dict[Key, int]:
    """Divide a total into integers proportional to the weights (largest-remainder method; the first of equals wins)."""
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
        folder: Path of the part's data folder.
        wanted: Number of samples requested.
        samples: Number of samples written. It may differ from `wanted`, because clusters are not divided.
        missing: Number of these samples with a missing image file.
        subjects: Number of different subjects. Samples without a subject are not counted.
        by_stratum: Number of samples for each modality and question type, which are joined by a comma.
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
        parts: Reports of the parts, by name.
        left_out: Number of selected samples that are in no part.
        clusters: Number of clusters, that is, groups of samples that share a subject, a volume or an image.
        largest_cluster: Number of samples in the largest cluster.
        old_splits: Names of the previous splits of the samples, which the new ones replace.
        file_name_subjects: Number of samples whose subject is only the name of an image file.
    """

    parts: dict[str, PartReport]
    left_out: int
    clusters: int
    largest_cluster: int
    old_splits: list[str]
    file_name_subjects: int

    def as_record(self) -> dict[str, Any]:
        """Convert the report to plain values for JSON."""
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
    """Split a data folder into parts. See `split_samples` for the method.

    Args:
        source: The data folder.
        out: Parent folder. Each part gets a subfolder with its name.
        wishes: Names and requested sizes of the parts.
        by: Fields whose distribution should be the same in all parts.
        modalities: Use only samples of these modalities, in any known spelling; all if empty.
        question_types: Use only samples of these question types; all if empty.
        seed: Random seed. The same arguments and data give identical files.
        progress: Called with (images done, total number of images).

    Returns:
        The report.

    Raises:
        UsageError: As for `split_samples`.
        UserError: As for `read_folder` and `split_samples`. Also if no sample has a requested modality or question
            type, the folder of a part already holds a data set, or writing fails.
    """
    source, out = Path(source), Path(out)
    for wish in wishes:
        if (out / wish.name / SAMPLES).exists():
            raise UserError(f"{out / wish.name}: holds a data set already; give another --out, or remove it first")
    wanted = {"modality": list(modalities), "question_type": list(question_types)}
    samples = _choose(source, read_folder(source), wanted)
    split = split_samples(samples, wishes, by=by, seed=seed)
    info = {"name": source.resolve().name} | read_info(source)
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
    subsets = {
        out / name: ([replace(s, split=name) for s in part], {**info, "split": {"part": name, **history}})
        for name, part in split.parts.items()
    }
    reports = {}
    for name, (folder, written) in zip(split.parts, write_subsets(source, subsets, progress).items(), strict=True):
        strata = Counter(", ".join(filter(None, (s.modality, s.question_type))) for s in written)
        reports[name] = PartReport(
            folder=str(folder),
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
        file_name_subjects=count_file_names(samples, info),
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
