"""Boxes in a completion: `<box>x1,y1,x2,y2</box>` after the reasoning.

The coordinates are integers from 0 to 1000 of the width and height of the image that the model is shown. With the
template `medvlm-r1-box-pixels`, they are pixels of the resized image, with at most two decimals. Parsed boxes are
always fractions of the width and height, so their IoU is the same in every system of coordinates.
"""

import re
from dataclasses import dataclass

from medvlm_r1.prompts.templates import BOX_PIXELS

Edges = tuple[float, float, float, float]
"""Left, upper, right and lower edge of a box, as fractions of the width and height of the shown image."""
Size = tuple[int, int]
"""Width and height in pixels."""

BOX_TEMPLATES = ("medvlm-r1-box", BOX_PIXELS)
"""Names of the templates that ask for boxes."""
RELATIVE = (1000, 1000)
"""Largest x and y of relative coordinates."""

_THINK = re.compile("(</?think>)", re.IGNORECASE)
# A whole box; otherwise any tag of a box, which is then malformed. Possessive, so that the time is linear.
_TAG = re.compile(r"<box>([^<]*+)</box>|</?box\b", re.IGNORECASE)
# Possessive, so that the time is linear.
_BOXES = r"(?:\s*+<box>[\d\s.,]*+</box>)"
_BETWEEN = re.compile(rf"(?<=</think>){_BOXES}++(?=\s*+<answer>)")
BRIDGE = re.compile(rf"</think>{_BOXES}*+\s*+<answer>")
"""Tags between the reasoning and the answer of a well-formed text, with the boxes between them."""
_WHOLE, _DECIMAL = r"\d{1,4}", r"\d{1,5}(?:\.\d{1,2})?"
_COORDINATES = {
    relative: re.compile(r"\s*" + r"\s*+,\s*+".join([f"({number})"] * 4) + r"\s*", re.ASCII)
    for relative, number in ((True, _WHOLE), (False, _DECIMAL))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedBoxes:
    """Boxes of a completion.

    Attributes:
        boxes: The well-formed boxes, in text order.
        malformed: Number of boxes that are not well-formed, and of tags of boxes without their partner.
    """

    boxes: tuple[Edges, ...]
    malformed: int

    @property
    def count(self) -> int:
        """Number of boxes that the completion states, well-formed or not."""
        return len(self.boxes) + self.malformed


def parse_boxes(text: str, shown_size: Size | None = None) -> ParsedBoxes:
    """Parse the boxes of a completion, in time linear in its length. The function never raises an exception.

    A box is `<box>x1,y1,x2,y2</box>` with tags in lower case and x1 < x2, y1 < y2 inside the image. White space may
    surround the numbers. Anything else with a box tag is malformed: signs, exponents, too few or too many numbers,
    an edge outside the image, an empty area, a tag that is not closed. Boxes in the reasoning do not count. Reasoning
    is the text from `<think>` to `</think>`, or to the end if it is not closed. Text before a `</think>` without
    `<think>` is reasoning too, because some chat templates open the tag.

    Args:
        text: The completion, without special tokens.
        shown_size: Size of the resized image if the coordinates are its pixels; None if they are relative.
    """
    first, *tagged = _THINK.split(text)
    pieces = [] if tagged and tagged[0].lower() == "</think>" else [first]
    pieces += [piece for tag, piece in zip(tagged[::2], tagged[1::2], strict=True) if tag.lower() == "</think>"]
    found = [_edges(match, shown_size) for piece in pieces for match in _TAG.finditer(piece)]
    boxes = tuple(edges for edges in found if edges is not None)
    return ParsedBoxes(boxes=boxes, malformed=len(found) - len(boxes))


def without_boxes(text: str) -> str:
    """Remove the boxes between the reasoning and the answer, so that the rest can be parsed as without boxes."""
    return _BETWEEN.sub("", text, count=1)


def box_text(box: Edges, shown_size: Size | None = None) -> str:
    """Write a box as a model should: rounded to integers from 0 to 1000, or to tenths of a pixel of the resized image.

    An edge is off by at most half a step. A box that would be rounded to nothing gets a side of one step.

    Args:
        box: The box.
        shown_size: Size of the resized image for its pixels; None for relative coordinates.
    """
    steps = RELATIVE if shown_size is None else (10 * shown_size[0], 10 * shown_size[1])
    numbers = [round(edge * steps[axis % 2]) for axis, edge in enumerate(box)]
    for low, high in ((0, 2), (1, 3)):
        if numbers[low] == numbers[high]:
            numbers[low] = min(numbers[low], steps[low] - 1)
            numbers[high] = numbers[low] + 1
    return f"<box>{','.join(str(n) if shown_size is None else f'{n / 10:g}' for n in numbers)}</box>"


def _edges(tag: re.Match[str], shown_size: Size | None) -> Edges | None:
    """The edges of a matched box; None if it is malformed."""
    numbers = _COORDINATES[shown_size is None].fullmatch(tag[1] or "")
    if numbers is None or not (tag[0].startswith("<box>") and tag[0].endswith("</box>")):
        return None
    width, height = shown_size or RELATIVE
    x1, y1, x2, y2 = map(float, numbers.groups())
    if x1 >= x2 or y1 >= y2 or x2 > width or y2 > height:
        return None
    return x1 / width, y1 / height, x2 / width, y2 / height
