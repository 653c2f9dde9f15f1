"""Boxes of a data set as fractions of the image that a model is shown, and a model's boxes as fractions of the image.

Windowing does not move pixels, and an import stores every image upright and with square pixels. Only the model's image
processor still changes positions: it resizes the image, and some processors also crop or pad it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.data.folder import SAMPLES
from medvlm_r1.data.image_facts import image_sizes
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.prompts.boxes import BOX_TEMPLATES, Edges, Size, parse_boxes
from medvlm_r1.prompts.templates import BOX_PIXELS


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxLabel:
    """True boxes of one sample, in the image as the model is shown it.

    Attributes:
        boxes: Boxes as fractions of the shown image; empty if it is known that there is none, None if unknown.
        shown_size: Size of the resized image if the template asks for its pixels; otherwise None.
    """

    boxes: tuple[Edges, ...] | None = None
    shown_size: Size | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxFrame:
    """Coordinates of the boxes that a model writes about one image.

    Attributes:
        area: Edges of the shown area as fractions of the image. They are below 0 or above 1 where the processor pads.
        shown_size: Size of the resized image if the template asks for its pixels; otherwise None.
    """

    area: Edges = (0.0, 0.0, 1.0, 1.0)
    shown_size: Size | None = None

    def boxes(self, text: str) -> list[Edges]:
        """The well-formed boxes of a completion, as fractions of the width and height of the image, cut at its edges.

        A box in the padding is left out.
        """
        x, y, right, bottom = self.area
        width, height = right - x, bottom - y
        stated = parse_boxes(text, self.shown_size).boxes
        cut = (_cut(x + a * width, y + b * height, x + c * width, y + d * height) for a, b, c, d in stated)
        return [box for box in cut if box is not None]


def box_frame(sizes: Sequence[Size], template: str, processor: Any = None) -> BoxFrame | None:
    """The coordinates of a model's boxes; None if the template asks for none, or if there is not exactly one image.

    Args:
        sizes: Width and height of the question's images.
        template: Name of the prompt template.
        processor: The image processor of the model; None if the model is shown the whole image.

    Raises:
        UsageError: The template asks for pixels of the resized image, and the processor is not that of a Qwen-VL model.
    """
    if template not in BOX_TEMPLATES or len(sizes) != 1:
        return None
    [(width, height)] = sizes
    left, top, shown_width, shown_height = _shown_area((width, height), processor)
    return BoxFrame(
        area=(left / width, top / height, (left + shown_width) / width, (top + shown_height) / height),
        shown_size=resized((width, height), processor) if template == BOX_PIXELS else None,
    )


def true_boxes(sample: Sample, size: Size, processor: Any = None) -> list[tuple[str, Edges]] | None:
    """Return label and edges of each visible true box, as fractions of the shown image; None if the boxes are unknown.

    Args:
        sample: The sample, with one image. An empty list of findings in its `truth` states that there is no box.
        size: Width and height of its image.
        processor: The image processor of the model; None if the model is shown the whole image.
    """
    if len(sample.images) != 1 or not (sample.boxes or stated_findings(sample) == []):
        return None
    return [(box.label, edges) for box in sample.boxes if (edges := shown_box(box, size, processor))]


def shown_box(box: Box, size: Size, processor: Any = None) -> Edges | None:
    """Convert a box from pixels of an image to fractions of the image that a model is shown.

    The image processors of all supported families resize the whole image, and some change its aspect ratio. This does
    not change fractions. CLIP's and LLaVA's processors crop a central area, or pad the image to a square first.

    Args:
        box: The box, in pixels of the decoded image.
        size: Width and height of the decoded image.
        processor: The image processor of the model; None if the model is shown the whole image.

    Returns:
        The visible part of the box; None if nothing of it is visible.
    """
    left, top, width, height = _shown_area(size, processor)
    return _cut((box.x1 - left) / width, (box.y1 - top) / height, (box.x2 - left) / width, (box.y2 - top) / height)


def _cut(*edges: float) -> Edges | None:
    """The part of a box between 0 and 1; None if there is nothing left."""
    x1, y1, x2, y2 = (min(max(edge, 0.0), 1.0) for edge in edges)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def resized(size: Size, processor: Any) -> Size:
    """Size of an image after the resize of a Qwen-VL processor, whose models write boxes in its pixels.

    Raises:
        UsageError: The processor is not that of a Qwen-VL model.
    """
    if not hasattr(processor, "merge_size"):
        raise UsageError(
            f"The template {BOX_PIXELS} is for Qwen-VL models, whose image processor resizes an image as a whole; use "
            f"{BOX_TEMPLATES[0]} for other models and for models on a server."
        )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    height, width = smart_resize(
        size[1],
        size[0],
        factor=processor.patch_size * processor.merge_size,
        min_pixels=processor.size["shortest_edge"],
        max_pixels=processor.size["longest_edge"],
    )
    return width, height


def box_labels(folder: str, samples: Iterable[Sample], template: str, processor: Any = None) -> list[BoxLabel]:
    """The box label of every sample.

    The boxes of a sample are known if it has one image, and either boxes or a `truth` without findings. A response does
    not say which of several images a box is in. Boxes are also unknown if the model is not shown any of them.

    Args:
        folder: The data folder.
        samples: Its samples.
        template: Name of the prompt template. Without a box template, all boxes are unknown.
        processor: The image processor of the model; None if it is unknown.

    Raises:
        UserError: A box is not inside its image.
        UsageError: The template asks for pixels of the resized image, and the processor is not that of a Qwen-VL model.
    """
    samples = list(samples)
    if template not in BOX_TEMPLATES:
        return [BoxLabel()] * len(samples)
    sizes = image_sizes(folder, samples)
    labels = []
    for sample in samples:
        size = sizes[sample.images[0]] if len(sample.images) == 1 else None
        if size is None:
            labels.append(BoxLabel())
            continue
        for box in sample.boxes:
            if box.x2 > size[0] or box.y2 > size[1]:
                raise UserError(
                    f"{folder}/{SAMPLES}, id {sample.id!r}: the box of {box.label!r} is {box.x1:g}, {box.y1:g}, "
                    f"{box.x2:g}, {box.y2:g}, but {sample.images[0]} has {size[0]} x {size[1]} pixels; give boxes in "
                    "pixels of the image file"
                )
        boxes = true_boxes(sample, size, processor)
        visible = None if boxes is None or (sample.boxes and not boxes) else tuple(edges for _, edges in boxes)
        shown_size = resized(size, processor) if template == BOX_PIXELS else None
        labels.append(BoxLabel(boxes=visible, shown_size=shown_size))
    return labels


def stated_findings(sample: Sample) -> list[Any] | None:
    """The findings that the truth of a sample with one image states; None if it states nothing about findings."""
    images = sample.truth.get("images")
    findings = (
        images[0].get("findings") if isinstance(images, list) and images and isinstance(images[0], dict) else None
    )
    return findings if isinstance(findings, list) else None


def _shown_area(size: Size, processor: Any) -> tuple[float, float, float, float]:
    """Left edge, upper edge, width and height of the area that the model is shown, in pixels of the image.

    The area extends beyond the image where the processor pads it.
    """
    if not getattr(processor, "do_center_crop", False):
        return 0.0, 0.0, float(size[0]), float(size[1])
    # Only LLaVA's processor both pads and crops. It pads to a square before it resizes.
    padded = (max(size), max(size)) if getattr(processor, "do_pad", False) else size
    small = processor.size.get("shortest_edge")
    # Pixels of the image per pixel of the resized image, in x and y.
    steps = (
        [min(padded) / small] * 2 if small else [padded[0] / processor.size.width, padded[1] / processor.size.height]
    )
    width, height = processor.crop_size.width * steps[0], processor.crop_size.height * steps[1]
    return (size[0] - width) / 2, (size[1] - height) / 2, width, height
