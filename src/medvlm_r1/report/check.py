"""HTML page of `data check`: findings, and a contact sheet of images that parts share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from medvlm_r1.data.check.findings import BadImage, Check, NearPair, Place, Question, Touched
from medvlm_r1.report.album import Album, Picture
from medvlm_r1.report.page import write_page
from medvlm_r1.report.table import Cell, Row, Table, text_table

_SIDE = 200
_PAIRS = 60
_PAIRS_WITHIN = 12
_PLACES = 4
_MOST_PICTURES = 3 * _PAIRS + 2 * _PAIRS_WITHIN


class Print(NamedTuple):
    """One image of the contact sheet; `image` is None if the file can no longer be read."""

    image: Picture | None
    places: tuple[Place, ...]
    more: int = 0


class Sheet(NamedTuple):
    """Images side by side under one caption."""

    caption: str
    prints: tuple[Print, ...]


def render_check(check: Check, out: Path | str) -> Path:
    """Write the report. It works offline and needs no other file.

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
    within = (*sharing.near_subjects.items, *sharing.near_within.items)[:_PAIRS_WITHIN]
    album = Album(_MOST_PICTURES)
    copies = [
        Sheet("equal pixels", (_print(folders, group.places.items, group.places.count, album),))
        for group in sharing.copies_between.items[:_PAIRS]
    ]
    return write_page(
        out,
        "check.html",
        title="Check of a data set",
        check=check,
        parts=_parts_table(check),
        copies=copies,
        near_between=_sheets(folders, sharing.near_between.items[:_PAIRS], album),
        near_within=_sheets(folders, within, album),
        album=album,
        near_within_count=sharing.near_subjects.count + sharing.near_within.count,
        contradictory=_questions(check.contradictory.items),
        repeated=_questions((*check.repeated_between.items, *check.repeated_within.items)),
        repeated_count=check.repeated_between.count + check.repeated_within.count,
        subjects=text_table(
            ("Subject", "In parts (one sample each)", "Samples"),
            (
                (str(number), "; ".join(f"{p.part}: {p.sample}" for p in shared.places), str(shared.samples))
                for number, shared in enumerate(check.shared_subjects.items, start=1)
            ),
        ),
        bad_rows=text_table(("File", "Row", "Fault"), ((r.file, str(r.row), r.reason) for r in check.bad_rows.items)),
        missing=text_table(("Part", "Sample", "Image"), ((p.part, p.sample, _number(p)) for p in check.missing.items)),
        unreadable=_bad_images(check.unreadable.items),
        unfit=_bad_images(check.unfit.items),
    )


def _bad_images(images: Iterable[BadImage]) -> Table:
    return text_table(
        ("Part", "Sample", "Image", "Why"),
        ((b.place.part, b.place.sample, _number(b.place), b.reason) for b in images),
    )


def _parts_table(check: Check) -> Table:
    columns = ["Samples", "Images", "Modalities", "Question types", "Options", "Open questions", "No image", "Shared"]
    touched = {part.part: part for part in check.touched}
    rows = [
        Row(
            part.name,
            [
                Cell(str(part.samples)),
                Cell(str(part.images)),
                _counts(part.modalities),
                _counts({name or "not given": count for name, count in part.question_types.items()}),
                _counts({f"{number} options": count for number, count in part.options.items()}),
                Cell(str(part.open_questions)),
                Cell(str(part.without_image)),
                _shared(touched.get(part.name)),
            ],
            "compared with" if part.reference else "",
        )
        for part in check.parts
    ]
    return Table("Part", [(name, "") for name in columns], rows)


def _shared(touched: Touched | None) -> Cell:
    if touched is None:
        return Cell("0")
    kinds = {"same image": touched.picture, "nearly": touched.near, "same subject": touched.subject}
    return Cell(str(touched.any), tuple(f"{name}: {count}" for name, count in kinds.items() if count))


def _counts(counts: Mapping[str, int]) -> Cell:
    return Cell("", tuple(f"{name}: {count}" for name, count in counts.items()))


def _number(place: Place) -> str:
    return str(place.number or 1)


def _questions(questions: Iterable[Question]) -> Table:
    return text_table(
        ("Question", "Answers", "Samples"),
        ((q.question, " / ".join(q.answers), _where(q.places.items, q.places.count)) for q in questions),
    )


def _where(places: tuple[Place, ...], count: int) -> str:
    listed = "; ".join(f"{place.part}: {place.sample}" for place in places[:_PLACES])
    return listed + (f"; and {count - _PLACES} more" if count > _PLACES else "")


def _sheets(folders: Mapping[str, Path], pairs: Iterable[NearPair], album: Album) -> list[Sheet]:
    return [
        Sheet(
            f"differ in {pair.distance} of 64 bits" + (f", the second {pair.flip}" if pair.flip else ""),
            tuple(_print(folders, (place,), 1, album) for place in (pair.a, pair.b)),
        )
        for pair in pairs
    ]


def _print(folders: Mapping[str, Path], places: tuple[Place, ...], count: int, album: Album) -> Print:
    image = album.find(folders[places[0].part], places[0].image, _SIDE)
    return Print(image, places[:_PLACES], count - len(places[:_PLACES]))
