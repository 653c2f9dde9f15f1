"""Splits: parts of a data set with the same mix of questions and no subject, volume or image in two of them.

Samples that share a subject, a volume or an image are one cluster and stay together. Clusters are given out one at a
time, the large ones first, each to the part that still lacks its kinds of question most. Where clusters are single
samples every count is exact, in each stratum too: then this is a stratified random draw.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from scipy.cluster.hierarchy import DisjointSet

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError

STRATA = ("modality", "question_type")
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LEFT_OUT = ""
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Wish:
    """The requested size of a part.

    Attributes:
        name: Of the part.
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
        wanted: Name to the number of samples that was asked for.
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
        keys: Of each; without one it is a group of its own.

    Returns:
        Positions in `keys`, in ascending order within a group; groups by their first position.
    """
    nodes: list[list[Hashable]] = [[position, *(("key", key) for key in mine)] for position, mine in enumerate(keys)]
    joined = DisjointSet(dict.fromkeys(node for group in nodes for node in group))
    for group in nodes:
        for one, other in pairwise(group):
            joined.merge(one, other)
    found: dict[Hashable, list[int]] = {}
    for position in range(len(keys)):
        found.setdefault(joined[position], []).append(position)
    return list(found.values())


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
        samples: To draw from.
        wishes: The parts.
        by: Fields whose mix shall be alike in all parts: `modality`, `question_type`, or none.
        seed: The same arguments give the same split.

    Returns:
        The split.

    Raises:
        UsageError: No part, two of one name, two that take the rest, or an unknown field.
        UserError: More samples are asked for than there are, or the clusters leave a part empty.
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
    order.sort(key=len, reverse=True)
    lacking = {name: sum(row.values()) for name, row in need.items()}
    taken: dict[str, list[int]] = {name: [] for name in need}
    for group in order:
        kinds = Counter(strata[position] for position in group)
        name = min(need, key=lambda part: _misfit(kinds, need[part], lacking[part], len(group)))
        need[name].subtract(kinds)
        lacking[name] -= len(group)
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


def _misfit(
    kinds: Counter[tuple[str, ...]], need: Counter[tuple[str, ...]], lacking: int, size: int
) -> tuple[float, ...]:
    """How badly a cluster fits a part: beyond its count, then beyond its strata; of equals, the emptier part."""
    beyond = sum(max(0, count - max(0, need[kind])) for kind, count in kinds.items())
    room = min((need[kind] / count for kind, count in kinds.items()), default=0.0)
    return max(0, size - max(0, lacking)), beyond, -room


def _sizes(wishes: Sequence[Wish], n: int) -> dict[str, int]:
    if not wishes:
        raise UsageError("no part was asked for; give at least one, such as --part train=600")
    sizes: dict[str, int] = {}
    for wish in wishes:
        if wish.name in sizes:
            raise UsageError(f"part {wish.name!r} was asked for twice; give each part once")
        sizes[wish.name] = 0 if wish.size == "rest" else wish.size if isinstance(wish.size, int) else -1
    shares = {wish.name: wish.size for wish in wishes if isinstance(wish.size, float)}
    rest = [wish.name for wish in wishes if wish.size == "rest"]
    if len(rest) > 1:
        raise UsageError(f"the parts {' and '.join(rest)} both take the rest; only one can")
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"the shares add up to {sum(shares.values()):.6g}; they can be at most 1")
    # Largest remainder with what no share takes as one more: shares that add up to 1 take every sample.
    sizes |= _apportion({**shares, _LEFT_OUT: max(0.0, 1 - sum(shares.values()))}, n)
    del sizes[_LEFT_OUT]
    total = sum(sizes.values())
    asked = ", ".join(map(str, wishes))
    if total > n or (rest and total == n):
        raise UserError(f"{asked}: {total + len(rest)} samples or more were asked for, but there are {n}")
    for name in rest:
        sizes[name] = n - total
    for name, size in sizes.items():
        if size == 0:
            raise UserError(f"{asked}: part {name!r} would be empty, as there are {n} samples; ask for a larger share")
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
