"""HTML pages of a data set, for the commands `data check` and `audit data`.

The page of a check has the findings, and a contact sheet of equal and nearly equal images. The page of an audit has the
accuracies of the blind baselines, and questions with their predictions.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from medvlm_r1.audit.dataset.audit import MARGIN, THRESHOLDS, DataAudit, ModalityAudit, label
from medvlm_r1.audit.dataset.baselines import CHANCE
from medvlm_r1.audit.dataset.clean import CleanSet
from medvlm_r1.data.check.findings import Check, NearPair, Place
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.option_prior import TIE
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.shown import shown_box
from medvlm_r1.prompts.boxes import Edges
from medvlm_r1.report.items import Item, Reply, make_item, spread_ids
from medvlm_r1.report.page import Album, Picture, write_page

_SIDE = 200
_PAIRS, _PAIRS_WITHIN = 60, 12
_PLACES = 4
_BOXED = 24

Print = tuple[Picture | None, Sequence[Place], int, Sequence[Edges]]
"""One image of the contact sheet (None if it can no longer be read), its first locations, the number of others, and its
boxes."""
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
        return image, places[:_PLACES], count - len(places[:_PLACES]), ()

    def sheet(pair: NearPair) -> Sheet:
        caption = f"differ in {pair.distance} of 64 bits" + (f", the second {pair.flip}" if pair.flip else "")
        return caption, [printed([place], 1) for place in (pair.a, pair.b)]

    copies = [
        ("equal pixels", [printed(group.places.items, group.places.count)])
        for group in sharing.copies_between.items[:_PAIRS]
    ]
    within = (*sharing.near_subjects.items, *sharing.near_within.items)[:_PAIRS_WITHIN]
    return write_page(
        out,
        "check.html",
        title="Check of a data set",
        check=check,
        copies=copies,
        near_between=[sheet(pair) for pair in sharing.near_between.items[:_PAIRS]],
        with_boxes=list(islice(_boxed_images(check, album), _BOXED)),
        near_within=[sheet(pair) for pair in within],
        album=album,
    )


def _boxed_images(check: Check, album: Album) -> Iterator[Sheet]:
    """Images with their boxes. Parts with bad rows are skipped."""
    for part in check.parts:
        samples: list[Sample] = []
        with suppress(UserError):
            samples = [s for s in read_folder(part.folder) if s.boxes and part.split in ("", s.split)]
        for sample in samples:
            for number in sorted({box.image for box in sample.boxes}):
                boxes = [box for box in sample.boxes if box.image == number]
                with suppress(UserError):
                    image = load_image(inside(part.folder, sample.images[number]))
                    edges = [edge for box in boxes if (edge := shown_box(box, image.size))]
                    place = Place(part.name, sample.id, sample.images[number], number + 1)
                    yield ", ".join(box.label for box in boxes), [(album.picture(image, _SIDE), [place], 0, edges)]


def render_data_audit(
    audit: DataAudit, out: Path | str, *, data: Path, clean: CleanSet | None = None, items: int = 6
) -> Path:
    """Write the page of a data audit. The page works offline and needs no other file.

    Args:
        audit: The audit to render.
        out: The HTML file; written atomically.
        data: The audited data folder, for the images of the questions shown.
        clean: The data set without the questions that blind baselines solve; None if it was not written.
        items: Number of questions to show in full.

    Returns:
        The path of the file.

    Raises:
        UserError: The file cannot be written.
    """
    modalities = audit.modalities
    fit = audit.prior_source.name if audit.prior_source else None
    # Unlike `str.capitalize`, the other letters are unchanged.
    names = {name: (text := label(name, fit))[:1].upper() + text[1:] for name in audit.baselines}
    album = Album(items)
    return write_page(
        out,
        "audit_data.html",
        title=f"What can be answered without the image: {data.resolve().name}",
        modalities=modalities,
        clean_set=clean,
        items=_items(modalities, names, data, items, album),
        album=album,
        audit=audit,
        names=names,
        thresholds=THRESHOLDS,
        margin=MARGIN,
        tie=TIE,
    )


def _items(
    modalities: Mapping[str, ModalityAudit], names: Mapping[str, str], data: Path, count: int, album: Album
) -> list[Item]:
    index = {item.id: (modality, row) for modality in modalities.values() for row, item in enumerate(modality.items)}
    items = []
    for item_id in spread_ids([item for modality in modalities.values() for item in modality.items], count):
        modality, row = index[item_id]
        replies = []
        for style, name in enumerate(name for name in modality.credits if name != CHANCE):
            credit = modality.credits[name][row]
            verdict = "Correct" if credit == 1 else "Tie" if credit else "Wrong"
            note = f"one of {round(1 / credit)} options that tie" if verdict == "Tie" else ""
            replies.append(Reply(run=names[name], style=style, verdict=verdict, note=note))
        items.append(make_item(modality.items[row], data, replies, album))
    return items
