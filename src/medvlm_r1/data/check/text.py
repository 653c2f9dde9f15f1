"""A check as lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from medvlm_r1.data.check.findings import Check, NearPair, Part, Place, Question, Touched
from medvlm_r1.data.subjects import file_names_warning

_SHOWN = 5


def check_lines(check: Check) -> list[str]:
    """Format a check for a terminal: what was checked, examples of each problem, and the verdict."""
    sharing = check.sharing
    copies, near = sharing.copies_between, sharing.near_between
    lines = [_part(part) for part in check.parts]
    found: list[tuple[str, int, Iterable[str]]] = [
        ("Rows", check.bad_rows.count, (f"{row.file}, row {row.row}: {row.reason}" for row in check.bad_rows.items)),
        ("Images not there", check.missing.count, map(_place, check.missing.items)),
        (
            "Images that cannot be shown",
            check.unreadable.count,
            (f"{_place(bad.place)}: {bad.reason}" for bad in check.unreadable.items),
        ),
        (
            "Images that the model cannot process",
            check.unfit.count,
            (f"{_place(bad.place)}: {bad.reason}" for bad in check.unfit.items),
        ),
        ("Contradictory answers", check.contradictory.count, map(_question, check.contradictory.items)),
        ("The same picture", copies.count, (_places(group.places.items, group.places.count) for group in copies.items)),
        (
            "Nearly the same picture in two parts",
            near.count,
            (f"{_place(pair.a)} and {_place(pair.b)} {_how_near(pair)}" for pair in near.items),
        ),
        (
            "The same subject",
            check.shared_subjects.count,
            (_places(shared.places, len(shared.places)) for shared in check.shared_subjects.items),
        ),
        ("The same question", check.repeated_between.count, map(_question, check.repeated_between.items)),
    ]
    for title, count, texts in found:
        lines += _first(title, count, texts)
    lines += _touched(check.touched)
    if check.file_name_subjects:
        lines.append(file_names_warning(check.file_name_subjects))
    if check.unlike_subjects:
        lines.append(f"Warning: {check.unlike_subjects}")
    if check.notes:
        lines.append(f"No fault by itself: {'; '.join(check.notes)}.")
    return [*lines, check.verdict]


def _part(part: Part) -> str:
    options = [f"{count} with {number} options" for number, count in part.options.items()]
    options += [f"{part.open_questions} open"] if part.open_questions else []
    modalities = ", ".join(f"{name} {count}" for name, count in part.modalities.items())
    reference = " (compared with)" if part.reference else ""
    described = "; ".join(text for text in (modalities, ", ".join(options)) if text)
    return f"{part.name}{reference}: {part.samples} samples, {part.images} images. {described}".rstrip(". ") + "."


def _first(title: str, count: int, texts: Iterable[str]) -> list[str]:
    if not count:
        return []
    shown = [f"  {text}" for text, _ in zip(texts, range(_SHOWN), strict=False)]
    more = [f"  ... and {count - _SHOWN} more"] if count > _SHOWN else []
    return [f"{title}:", *shown, *more]


def _touched(touched: Iterable[Touched]) -> list[str]:
    lines = [
        f"  {part.part}: {part.any} of {part.samples} (the same picture {part.picture}, nearly the same picture "
        f"{part.near}, the same subject {part.subject})"
        for part in touched
    ]
    return ["Questions that share something with another part:", *lines] if lines else []


def _how_near(pair: NearPair) -> str:
    return f"differ in {pair.distance} of 64 bits" + (f", the second {pair.flip}" if pair.flip else "")


def _question(question: Question) -> str:
    answers = f" answered {' / '.join(question.answers)}" if len(question.answers) > 1 else ""
    return f"{question.question!r}{answers}: {_places(question.places.items, question.places.count)}"


def _places(places: tuple[Place, ...], count: int) -> str:
    more = f", and {count - _SHOWN} more" if count > _SHOWN else ""
    return ", ".join(map(_place, places[:_SHOWN])) + more


def _place(place: Place) -> str:
    return f"{place.part} {place.sample}" + (f" (image {place.number})" if place.number else "")
