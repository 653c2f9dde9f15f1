"""Split a data folder into one data folder per part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medvlm_r1.data.folder import SAMPLES, folder_hash, read_folder, read_info, write_folder
from medvlm_r1.data.folder_images import copy_images
from medvlm_r1.data.modality import modality_name
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.split import STRATA, Wish, split_samples
from medvlm_r1.data.subjects import count_file_names
from medvlm_r1.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """A record of one written part.

    Attributes:
        folder: The data folder.
        wanted: Samples asked for.
        samples: Samples written; differs from `wanted` where a subject or an image keeps several together.
        missing: Of these, samples of which an image file is not there.
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
        out: Where the folder of each part is made, named like the part.
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
            folder holds a data set already; or the disk refuses.
    """
    source, out = Path(source), Path(out)
    for wish in wishes:
        if (out / wish.name / SAMPLES).exists():
            raise UserError(f"{out / wish.name}: holds a data set already; give another --out, or remove it first")
    everything = read_folder(source)
    wanted = {"modality": list(modalities), "question_type": list(question_types)}
    samples = _choose(source, everything, wanted)
    split = split_samples(samples, wishes, by=by, seed=seed)
    # The source's counts and split are not those of a part.
    described = {"name": source.resolve().name} | {
        key: value for key, value in read_info(source).items() if key not in ("counts", "split")
    }
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
    copies = {name: sorted({image for s in part for image in s.images}) for name, part in split.parts.items()}
    absent = copy_images(source, [(image, out / name) for name, images in copies.items() for image in images], progress)
    reports = {}
    # All images are in place before the first samples.jsonl is, so an interrupted split can be started again.
    for name, part in split.parts.items():
        written = [
            replace(s, split=name, missing=s.unnamed_image or any(image in absent for image in s.images)) for s in part
        ]
        info = {**described, "split": {"part": name, **history}}
        write_folder(out / name, written, info=info)
        reports[name] = PartReport(
            folder=str(out / name),
            wanted=split.wanted[name],
            samples=len(written),
            missing=sum(sample.missing for sample in written),
            subjects=len({sample.subject for sample in written if sample.subject}),
            by_stratum=dict(sorted(Counter(map(_stratum, written)).items())),
        )
    return SplitReport(
        parts=reports,
        left_out=len(split.left_out),
        clusters=split.clusters,
        largest_cluster=split.largest_cluster,
        old_splits=sorted({sample.split for sample in samples if sample.split}),
        file_name_subjects=count_file_names(samples, described),
    )


def _stratum(sample: Sample) -> str:
    return ", ".join(text for text in (sample.modality, sample.question_type) if text)


def _choose(source: Path, samples: Sequence[Sample], wanted: dict[str, list[str]]) -> list[Sample]:
    chosen = list(samples)
    for field, names in wanted.items():
        if not names:
            continue
        present = {getattr(sample, field).casefold(): getattr(sample, field) for sample in samples}
        found = set()
        for name in names:
            known = modality_name(name) if field == "modality" else None
            match = present.get((known or name).casefold())
            if not match:
                what = field.replace("_", " ")
                near = did_you_mean(name, filter(None, present.values()))
                raise UserError(f"{source}: no sample has the {what} {name!r}; {near}")
            found.add(match)
        chosen = [sample for sample in chosen if getattr(sample, field) in found]
    if not chosen:
        raise UserError(f"{source}: no sample has both a wanted modality and a wanted question type; choose others")
    return chosen
