"""Write questions about volumes as a data folder: slice images, `samples.jsonl` and `info.json`."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import ImageDraw

from medvlm_r1.console import Advance
from medvlm_r1.data.folder import IMAGES, refuse_other, write_folder
from medvlm_r1.data.images.files import silence_logging
from medvlm_r1.data.images.picture import PLANES, View
from medvlm_r1.data.images.volume import show_volume
from medvlm_r1.data.images.windowing import PRESETS, parse_window
from medvlm_r1.data.importing.images import written_name
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.volumes.questions import SIZES, TYPES, Candidate, Question, draw_questions, size_class
from medvlm_r1.volumes.slices import Seen, Slice, slice_facts
from medvlm_r1.volumes.structures import Names, read_names
from medvlm_r1.volumes.study import find_studies, read_image, read_study

NAME = "volumes"
SUBJECTS = "study folders"
_MARK = (255, 210, 0)
_FEWEST_SLICES = 20
_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of an import of volumes.

    Attributes:
        names: File with the names of labels; None if the studies contain names or use those of TotalSegmentator.
        per_volume: Number of questions per study, on average.
        planes: axial, coronal or sagittal.
        seed: Seed of the questions.
        modality: Modality of studies whose files do not state it; empty if all do.
        window: Window of the pictures; None for soft-tissue (CT) or the percentiles (all others).
        sizes: Ascending bounds of the size classes of lesions, mm.
        skip_bad: Whether studies that cannot be used are left out and reported.

    Raises:
        UsageError: A plane or window is unknown, or the bounds are not ascending.
    """

    names: Path | None = None
    per_volume: int = 20
    planes: tuple[str, ...] = PLANES
    seed: int = 0
    modality: str = ""
    window: str | None = None
    sizes: tuple[float, ...] = SIZES
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for plane in self.planes:
            View(plane=plane)
        parse_window(self.window or "full")
        if not self.sizes or list(self.sizes) != sorted({size for size in self.sizes if size > 0}):
            raise UsageError(f"--size-bound {' '.join(map(str, self.sizes))}; wanted ascending bounds above 0 mm")

    def view(self, item: Slice) -> View:
        """Plane, index and window with which the image loader shows a slice."""
        window = self.window or ("soft-tissue" if item.modality == "CT" else "percentile")
        return View(plane=item.plane, slice=item.number, window=window)


def import_volumes(
    source: Path, out: Path, settings: Settings, progress: Advance
) -> tuple[list[Sample], dict[str, Any]]:
    """Write questions about the studies of a source as a data folder.

    Args:
        source: Folder with one folder per study. See `study.find_studies`.
        out: The data folder to create or replace.
        settings: The settings.
        progress: Called with the number of studies or images done, their total, and a label.

    Returns:
        The samples; and a report: `by_attribute` (number of questions), `not_asked` (reasons by attribute), and
        `left_out` (why studies were left out).

    Raises:
        UserError: A study cannot be used, or no question can be asked. The message lists the faults of all studies,
            and nothing is written.
    """

    def collect(results: list[Any], total: int, note: str) -> Callable[[Any], None]:
        def take(result: Any) -> None:
            results.append(result)
            progress(len(results), total, note)

        return take

    folders = find_studies(source)
    refuse_other(out, NAME)
    names = read_names(settings.names) if settings.names else {}
    read: list[list[Slice] | str] = []
    work_on_images(_read, [(path, names, settings) for path in folders], collect(read, len(folders), "studies read"))
    studies = [facts for facts in read if not isinstance(facts, str)]
    left_out = [fault for fault in read if isinstance(fault, str)]
    if left_out and not (settings.skip_bad and studies):
        advice = "Nothing was written. Correct these studies, or leave them out with --skip-bad."
        more = [f"and {len(left_out) - _NAMED} more studies"] if len(left_out) > _NAMED else []
        raise UserError("\n  ".join([*left_out[:_NAMED], *more, advice]))
    n = settings.per_volume * len(studies)
    questions, not_asked = draw_questions(list(chain.from_iterable(studies)), n, settings.seed, settings.sizes)
    if not questions:
        reasons = ", ".join(f"{attribute} ({why})" for attribute, why in not_asked.items())
        raise UserError(f"{source}: no question can be asked: {reasons}")
    samples = [_sample(number, *pair, settings) for number, pair in enumerate(questions, start=1)]
    jobs = {
        sample.images[0]: (item.slice.study, settings.view(item.slice), item.asked[: item.marked], out)
        for sample, (_, item) in zip(samples, questions, strict=True)
    }
    (out / IMAGES).mkdir(parents=True, exist_ok=True)
    # Images of one study follow each other, so that a worker opens few volumes.
    work_on_images(_write_image, sorted(jobs.items()), collect([], len(jobs), "images written"))
    info = {"name": NAME, "source": "your own", "license": "your own", "file": source.name, "seed": settings.seed}
    write_folder(out, samples, info=info | {"subjects": {SUBJECTS: len(samples)}})
    counts = Counter(question.attribute for question, _ in questions)
    return samples, {"by_attribute": dict(counts.most_common()), "not_asked": not_asked, "left_out": left_out}


def _read(job: tuple[Path, Names, Settings]) -> list[Slice] | str:
    """Facts about the slices of a study, or why it cannot be used."""
    folder, names, settings = job
    try:
        image, modality = read_image(folder)
        if not (modality := modality or settings.modality):
            raise UserError("the files do not state the modality; give it with --modality-for-missing")
        study = read_study(folder, image, names)
        n = max(_FEWEST_SLICES, settings.per_volume)
        return list(slice_facts(folder, modality, study, settings.planes, n))
    except UserError as error:
        return str(error) if str(folder) in str(error) else f"{folder}: {error}"


def _sample(number: int, question: Question, candidate: Candidate, settings: Settings) -> Sample:
    item, view = candidate.slice, settings.view(candidate.slice)
    name = written_name(f"{IMAGES}/{item.study.name}", view)
    edges = [dict(zip(("x1", "y1", "x2", "y2"), seen.box, strict=True)) for seen in candidate.asked]
    boxes = [Box(label=seen.structure.text, image=0, **box) for seen, box in zip(candidate.asked, edges, strict=True)]
    if candidate.marked:
        name = f"{name.removesuffix('.png')}.box-{'-'.join(map(str, candidate.asked[0].box))}.png"
    technique = f"{view.window} window" if view.window in PRESETS else view.window
    truth: dict[str, Any] = {
        "modality": item.modality,
        "region": item.region or None,
        "plane": item.plane,
        "technique": technique,
    }
    truth["organs"] = [_record(seen) for seen in item.organs if seen.clear]
    truth["unclear"] = sorted({seen.structure.text for seen in item.organs if not seen.clear})
    truth["absent"] = sorted(item.segmented - {seen.structure.name for seen in item.organs})
    if item.lesions is not None:
        sizes = [{"size": size_class(lesion, settings.sizes) or None} for lesion in item.lesions]
        truth["findings"] = [_record(lesion) | size for lesion, size in zip(item.lesions, sizes, strict=True)]
    return Sample(
        id=f"{NAME}-{number:06d}",
        images=(name,),
        question=question.text,
        options=question.options,
        answer=question.answer,
        modality=item.modality,
        question_type=str(TYPES[question.attribute]["type"]),
        subject=item.study.name,
        boxes=tuple(boxes),
        truth={"asks": question.attribute, "images": [truth]},
        record={"image_sources": [item.study.name], "area_mm2": round(sum(seen.area for seen in candidate.asked), 1)},
    )


def _record(seen: Seen) -> dict[str, Any]:
    return {"name": seen.structure.name, "side": seen.side or None, "area_mm2": round(seen.area, 1)}


@lru_cache(maxsize=1)
def _open_image(folder: Path) -> Any:
    return read_image(folder)[0]


def _write_image(job: tuple[str, tuple[Path, View, Sequence[Seen], Path]]) -> None:
    """Write one slice, with a frame around each structure that is marked."""
    name, (folder, view, marked, out) = job
    with silence_logging():
        image = show_volume(folder, _open_image(folder), view, "volume").image
    for left, top, right, bottom in (seen.box for seen in marked):
        ImageDraw.Draw(image).rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=_MARK, width=2)
    image.save(out / name, compress_level=3)
