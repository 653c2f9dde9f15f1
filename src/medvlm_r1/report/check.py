"""HTML page of the command `data check`: findings, and a contact sheet of equal and nearly equal images."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from medvlm_r1.data.check.findings import Check, NearPair, Place
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.shown import shown_box
from medvlm_r1.prompts.boxes import Edges
from medvlm_r1.report.album import Album, Picture
from medvlm_r1.report.page import write_page

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
