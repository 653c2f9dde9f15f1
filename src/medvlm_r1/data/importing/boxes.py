"""The column `boxes` of a user's own questions, and its conversion to pixels of the imported images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.errors import UserError

_NAMES = tuple(field.name for field in fields(Box))
_WANTED = 'expected a JSON list of objects such as {"label": "mass", "x1": 31, "y1": 58, "x2": 74, "y2": 99}'


def parse_boxes_column(value: Any, name: str) -> tuple[Box, ...] | None:
    """Parse a cell with boxes. `Sample` checks the values of each box.

    Args:
        value: A list of objects, or a JSON text of one. `image` is 0 if an object does not name it.
        name: Name of the column, for the error message.

    Returns:
        The boxes; empty if the list is empty, which states that there is no finding. None if the cell is empty.

    Raises:
        ValueError: The cell is not a list of such objects.
    """
    if value in (None, ""):
        return None
    try:
        rows = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"field {name!r} holds {value[:80]!r}, which is not JSON ({error}); {_WANTED}") from error
    boxes = []
    for row in rows if isinstance(rows, list) else [rows]:
        box = {"image": 0, **row} if isinstance(row, Mapping) else None
        if box is None or box.keys() != set(_NAMES):
            raise ValueError(f"field {name!r} holds {repr(row)[:80]}; {_WANTED}")
        boxes.append(Box(**box))
    return tuple(boxes)


def boxes_in_images(sample: Sample, folder: Path, notes: Mapping[str, Mapping[str, Any]]) -> tuple[Box, ...]:
    """Convert boxes from pixels of the source images to pixels of the images that the import wrote.

    The two differ if a DICOM image was resampled to square pixels. All other images keep their pixels, except that
    volumes and images with an EXIF rotation are turned upright. Their boxes refer to the upright image, as viewers and
    annotation tools show it.

    Args:
        sample: The sample. Boxes in missing images are not changed.
        folder: The data folder.
        notes: Note of each converted image, by name.

    Raises:
        UserError: A box is not inside its image.
    """
    return tuple(_in_image(box, folder, sample.images, notes) for box in sample.boxes)


def _in_image(box: Box, folder: Path, images: Sequence[str], notes: Mapping[str, Mapping[str, Any]]) -> Box:
    name = images[box.image]
    path, note = inside(folder, name), notes.get(name, {})
    if not path.is_file():
        return box
    aspect = note.get("aspect", 1.0) if note.get("format") == "DICOM" else 1.0
    with Image.open(path) as image:
        width, height = image.size
    # The coarser side was enlarged.
    across, down = max(1.0, 1 / aspect), max(1.0, aspect)
    edges = (box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down)
    # The size of a resampled image is rounded.
    if edges[2] > width + (across > 1) or edges[3] > height + (down > 1):
        raise UserError(
            f"the box of {box.label!r} is {box.x1:g}, {box.y1:g}, {box.x2:g}, {box.y2:g}, but {name} has "
            f"{width / across:.0f} x {height / down:.0f} pixels; give boxes in pixels of the image file"
        )
    x1, y1, x2, y2 = edges
    return replace(box, x1=x1, y1=y1, x2=min(x2, width), y2=min(y2, height))
