"""HTML page of the command `data check`: findings, and a contact sheet of equal and nearly equal images."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from PIL import ImageDraw

from medvlm_r1.data.check.findings import BadImage, Check, NearPair, Place, Question
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.report.album import Album, Picture
from medvlm_r1.report.page import Cell, Row, Table, text_table, write_page

_SIDE = 200
_PAIRS, _PAIRS_WITHIN = 60, 12
_PLACES = 4
_BOXED = 24

Print = tuple[Picture | None, Sequence[Place], int]
"""One image of the contact sheet (None if it can no longer be read), its first locations, and the number of others."""
Sheet = tuple[str, Sequence[Print]]
"""A caption, and the images shown side by side under it."""


def render_check(check: Check, out: Path | str) -> Path:
    """Write the page of a data check. It works offline and needs no other file.

    Args:
        check: The findings. Their images are read again for the contact sheet.
        out: The HTML file; written atomically.

    Returns:
        The path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    folders = {part.name: Path(part.folder) for part in check.parts}
    sharing = check.sharing
    album = Album(3 * _PAIRS + 2 * _PAIRS_WITHIN + _BOXED)

    def printed(places: Sequence[Place], count: int) -> Print:
        image = album.find(folders[places[0].part], places[0].image, _SIDE)
        return image, places[:_PLACES], count - len(places[:_PLACES])

    def sheet(pair: NearPair) -> Sheet:
        caption = f"differ in {pair.distance} of 64 bits" + (f", the second {pair.flip}" if pair.flip else "")
        return caption, [printed([place], 1) for place in (pair.a, pair.b)]

    copies = [
        ("equal pixels", [printed(group.places.items, group.places.count)])
        for group in sharing.copies_between.items[:_PAIRS]
    ]
    within = (*sharing.near_subjects.items, *sharing.near_within.items)[:_PAIRS_WITHIN]
    shared = enumerate(check.shared_subjects.items, start=1)
    return write_page(
        out,
        "check.html",
        title="Check of a data set",
        check=check,
        parts=_parts_table(check),
        copies=copies,
        near_between=[sheet(pair) for pair in sharing.near_between.items[:_PAIRS]],
        boxed=list(islice(_boxed_images(check, album), _BOXED)),
        near_within=[sheet(pair) for pair in within],
        album=album,
        near_within_count=sharing.near_subjects.count + sharing.near_within.count,
        contradictory=_questions(check.contradictory.items),
        repeated=_questions((*check.repeated_between.items, *check.repeated_within.items)),
        repeated_count=check.repeated_between.count + check.repeated_within.count,
        subjects=text_table(
            ("Subject", "In parts (one sample each)", "Samples"),
            ((number, _where(subject.places), subject.samples) for number, subject in shared),
        ),
        bad_rows=text_table(("File", "Row", "Fault"), ((r.file, r.row, r.reason) for r in check.bad_rows.items)),
        missing=text_table(
            ("Part", "Sample", "Image"), ((p.part, p.sample, p.number or 1) for p in check.missing.items)
        ),
        unreadable=_bad_images(check.unreadable.items),
        unfit=_bad_images(check.unfit.items),
    )


def _boxed_images(check: Check, album: Album) -> Iterator[Sheet]:
    """Images with boxes, with the boxes drawn in. Parts with bad rows are skipped."""
    for part in check.parts:
        samples: list[Sample] = []
        with suppress(UserError):
            samples = [s for s in read_folder(part.folder) if s.boxes and part.split in ("", s.split)]
        for sample in samples:
            for number in sorted({box.image for box in sample.boxes}):
                boxes = [box for box in sample.boxes if box.image == number]
                with suppress(UserError):
                    image = load_image(inside(part.folder, sample.images[number]))
                    pen, width = ImageDraw.Draw(image), max(1, max(image.size) // 100)
                    for box in boxes:
                        pen.rectangle((box.x1, box.y1, box.x2 - 1, box.y2 - 1), outline="#ff9800", width=width)
                    place = Place(part.name, sample.id, sample.images[number], number + 1)
                    yield ", ".join(box.label for box in boxes), [(album.picture(image, _SIDE), [place], 0)]


def _bad_images(images: Iterable[BadImage]) -> Table:
    rows = ((b.place.part, b.place.sample, b.place.number or 1, b.reason) for b in images)
    return text_table(("Part", "Sample", "Image", "Why"), rows)


def _parts_table(check: Check) -> Table:
    columns = ["Samples", "Images", "Modalities", "Question types", "Options", "Open questions", "No image", "Shared"]
    touched = {part.part: part for part in check.touched}
    rows = []
    for part in check.parts:
        counts = (
            part.modalities,
            {name or "not given": count for name, count in part.question_types.items()},
            {f"{number} options": count for number, count in part.options.items()},
        )
        cells = [
            Cell(str(part.samples)),
            Cell(str(part.images)),
            *(Cell("", tuple(f"{name}: {n}" for name, n in count.items())) for count in counts),
            Cell(str(part.open_questions)),
            Cell(str(part.without_image)),
        ]
        if other := touched.get(part.name):
            kinds = {"same image": other.picture, "nearly": other.near, "same subject": other.subject}
            cells.append(Cell(str(other.any), tuple(f"{name}: {count}" for name, count in kinds.items() if count)))
        else:
            cells.append(Cell("0"))
        rows.append(Row(part.name, cells, "compared with" if part.reference else ""))
    return Table("Part", [(name, "") for name in columns], rows)


def _questions(questions: Iterable[Question]) -> Table:
    rows = ((q.question, " / ".join(q.answers), _where(q.places.items, q.places.count)) for q in questions)
    return text_table(("Question", "Answers", "Samples"), rows)


def _where(places: Sequence[Place], count: int = 0) -> str:
    """List parts and samples as text. If `count` is given, list only the first few and the number of others."""
    listed = "; ".join(f"{place.part}: {place.sample}" for place in (places[:_PLACES] if count else places))
    return listed + (f"; and {count - _PLACES} more" if count > _PLACES else "")
