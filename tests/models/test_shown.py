"""Boxes in pixels of an image file as fractions of the image that a model is shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    LlavaImageProcessor,
    PixtralImageProcessor,
    Qwen2VLImageProcessor,
    SmolVLMImageProcessor,
)

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.models.shown import BoxLabel, box_frame, box_labels, resized, shown_box, true_boxes
from medvlm_r1.prompts.boxes import box_text, parse_boxes
from medvlm_r1.rewards.box_iou import iou

SIZE = (1000, 500)
QWEN = Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 80_000})
"""Shrinks an image of 1000 x 500 pixels to 0.4, in steps of 28 pixels."""
CROPPING = [CLIPImageProcessor(), LlavaImageProcessor(), LlavaImageProcessor(do_pad=True)]
CROPPING += [LlavaImageProcessor(size={"shortest_edge": 300}), CLIPImageProcessor(size={"height": 300, "width": 400})]
WHOLE = [QWEN, Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 65_536, "longest_edge": 80_000})]
OTHERS = [PixtralImageProcessor(), GotOcr2ImageProcessor(crop_to_patches=False), Gemma3ImageProcessor()]
TILING = [SmolVLMImageProcessor(do_image_splitting=False), Idefics3ImageProcessor(do_image_splitting=False)]


def made(box: tuple[float, ...], image: int = 0) -> Box:
    x1, y1, x2, y2 = box
    return Box(label="mass", image=image, x1=x1, y1=y1, x2=x2, y2=y2)


def pixels(processor: Any, image: Image.Image) -> np.ndarray:
    """What the processor makes of an image, as gray values (height, width); Qwen's patches are put together again."""
    out = processor(images=[image], return_tensors="pt")
    if "image_grid_thw" not in out:
        values = out["pixel_values"]
        return values.reshape(-1, *values.shape[-3:])[0].mean(0).numpy()
    _, rows, columns = out["image_grid_thw"][0].tolist()
    side, merge = processor.patch_size, processor.merge_size
    patches = out["pixel_values"].reshape(rows // merge, columns // merge, merge, merge, 3, 2, side, side)
    return patches[:, :, :, :, 0, 0].permute(0, 2, 4, 1, 3, 5).reshape(rows * side, columns * side).numpy()


@pytest.mark.parametrize("processor", [*WHOLE, *OTHERS, *TILING, *CROPPING], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("size", [SIZE, (300, 640)])
def test_a_bright_rectangle_is_where_the_conversion_says(processor: Any, size: tuple[int, int]) -> None:
    width, height = size
    box = (width // 2 - 60, height // 2 - 50, width // 2 + 90, height // 2 + 80)
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    shown = pixels(processor, image)
    bright = shown > (shown.min() + shown.max()) / 2
    # Padding is gray; the rectangle is white.
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    converted = shown_box(made(box), size, processor)
    assert converted is not None
    scale = (shown.shape[1], shown.shape[0]) * 2
    assert np.abs(np.array(converted) * scale - found).max() < 1.5
    if processor in WHOLE:
        assert resized(size, processor) == shown.shape[::-1]


@pytest.mark.parametrize("processor", [None, *WHOLE, *OTHERS, *TILING], ids=lambda p: type(p).__name__)
def test_relative_coordinates_of_a_shrunken_image_are_exact(processor: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x1, y1 = rng.integers(0, (950, 450))
        box = (x1, y1, rng.integers(x1 + 50, 1001), rng.integers(y1 + 50, 501))  # at least 20 pixels after the resize
        true = shown_box(made(tuple(map(int, box))), SIZE, processor)
        assert true == (box[0] / 1000, box[1] / 500, box[2] / 1000, box[3] / 500)
        assert parse_boxes(box_text(true)).boxes == (true,)
        assert iou([true], [true])[0, 0] == 1.0


@given(st.floats(0, 949), st.floats(0, 449), st.floats(0, 1), st.floats(0, 1))
def test_the_true_box_survives_being_written(x1: float, y1: float, right: float, low: float) -> None:
    box = made((x1, y1, x1 + 51 + right * (949 - x1), y1 + 51 + low * (449 - y1)))
    for processor, least in [*((p, 0.98) for p in WHOLE), (None, 0.97)]:
        true = shown_box(box, SIZE, processor)
        assert true is not None
        if processor is not None:
            size = resized(SIZE, processor)
            assert iou(parse_boxes(box_text(true, size), size).boxes, [true])[0, 0] >= least
        # Half a thousandth of 400 pixels is 0.2 pixels: of 20 pixels, 2 % in x and 1 % in y.
        assert iou(parse_boxes(box_text(true)).boxes, [true])[0, 0] >= 0.97


@pytest.mark.parametrize("processor", CROPPING, ids=lambda p: type(p).__name__)
def test_the_crop_cuts_boxes(processor: Any) -> None:
    assert shown_box(made((0, 0, 1000, 500)), SIZE, processor) is not None
    outside = shown_box(made((0, 200, 40, 300)), SIZE, processor)
    assert outside == ((0, 0.45, 0.04, 0.55) if processor is CROPPING[2] else None)


@pytest.mark.parametrize("processor", [None, *WHOLE, *OTHERS, *CROPPING], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("size", [SIZE, (300, 640)])
def test_a_stated_box_is_where_it_is_in_the_image(processor: Any, size: tuple[int, int]) -> None:
    """The inverse of `shown_box`, inside the shown area."""
    width, height = size
    edges = (0.45, 0.4, 0.6, 0.55)
    box = made((edges[0] * width, edges[1] * height, edges[2] * width, edges[3] * height))
    templates = ["medvlm-r1-box", *(["medvlm-r1-box-pixels"] if processor in WHOLE else [])]
    for template in templates:
        frame, true = box_frame([size], template, processor), shown_box(box, size, processor)
        assert frame is not None
        assert true is not None
        text = f"<think>x</think>{box_text(true, frame.shown_size)}<answer>A</answer>"
        assert frame.boxes(text) == [pytest.approx(edges, abs=0.005)]
    # A box in the padding of a tall image is not in the image.
    padding = "<box>0,0,1,1000</box>"
    assert bool(box_frame([(300, 640)], templates[0], CROPPING[2]).boxes(padding)) is False  # type: ignore[union-attr]
    assert (
        box_frame([size, size], templates[0]) is box_frame([size], "medvlm-r1") is box_frame([], templates[0]) is None
    )
    with pytest.raises(UsageError, match="is for Qwen-VL models"):
        box_frame([size], "medvlm-r1-box-pixels")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One sample of each kind: a box, no finding, unknown, a finding without a box, two images, a missing image."""
    (tmp_path / "images").mkdir()
    Image.new("L", SIZE).save(tmp_path / "images/a.png")
    seen, empty = {"images": [{"findings": [{"name": "mass"}]}]}, {"images": [{"findings": []}]}
    kinds: dict[str, dict[str, Any]] = {
        "box": {"boxes": (made((120, 200, 200, 275)),), "truth": seen},
        "empty": {"truth": empty},
        "unknown": {},
        "unseen": {"truth": seen},
        "two": {"images": ("images/a.png", "images/a.png"), "boxes": (made((1, 2, 3, 4), 1),)},
        "missing": {"images": ("images/b.png",), "boxes": (made((1, 2, 3, 4)),)},
        "odd": {"truth": {"images": "?"}},
    }
    common: dict[str, Any] = {"images": ("images/a.png",), "question": "?", "options": ("x", "y"), "answer": "x"}
    samples = [Sample(**{**common, "modality": "CT", "id": name, **kind}) for name, kind in kinds.items()]
    write_folder(tmp_path, samples, info={})
    return tmp_path


def test_true_boxes_in_the_image(folder: Path) -> None:
    known = {sample.id: true_boxes(sample, SIZE) for sample in read_folder(folder)}
    assert known.pop("box") == [("mass", pytest.approx((0.12, 0.4, 0.2, 0.55)))]
    assert known.pop("empty") == []
    assert known.pop("missing") is not None
    assert set(known.values()) == {None}


def test_what_is_known(folder: Path) -> None:
    samples = read_folder(folder)
    labels = {s.id: label for s, label in zip(samples, box_labels(str(folder), samples, "medvlm-r1-box"), strict=True)}
    assert labels["box"] == BoxLabel(boxes=((0.12, 0.4, 0.2, 0.55),))
    assert labels["empty"] == BoxLabel(boxes=())
    assert {name for name, label in labels.items() if label == BoxLabel()} == labels.keys() - {"box", "empty"}
    [label] = box_labels(str(folder), samples[:1], "medvlm-r1-box-pixels", QWEN)
    assert label == BoxLabel(boxes=((0.12, 0.4, 0.2, 0.55),), shown_size=(392, 196))
    assert box_labels(str(folder), samples[:1], "medvlm-r1") == [BoxLabel()]
    # A finding outside the crop is not a known absence.
    [label] = box_labels(str(folder), samples[:1], "medvlm-r1-box", CLIPImageProcessor())
    assert label == BoxLabel()
    with pytest.raises(UsageError, match=r"medvlm-r1-box-pixels is for Qwen-VL models.*use medvlm-r1-box for other"):
        box_labels(str(folder), samples[:1], "medvlm-r1-box-pixels", PixtralImageProcessor())


def test_a_box_outside_its_image_is_refused(folder: Path) -> None:
    sample = replace(read_folder(folder)[0], boxes=(made((1, 2, 3, 501)),))
    with pytest.raises(UserError, match=r"samples.jsonl, id 'box': the box of 'mass' is 1, 2, 3, 501, .* 1000 x 500"):
        box_labels(str(folder), [sample], "medvlm-r1-box")
