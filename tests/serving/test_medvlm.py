"""The Python API: whatever holds an image, one question or many, at once or piece by piece."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medvlm_r1.data.images import load_picture
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.models.choice_logprobs import letter_probabilities
from medvlm_r1.models.generate import Generation
from medvlm_r1.serving.answer import load, read_answer
from medvlm_r1.serving.medvlm import Closed, LocalBackend, MedVLM, Question, prepare

OPTIONS = ("liver", "kidney", "brain")


@pytest.fixture
def model(endless_policy: Any) -> MedVLM:
    return MedVLM(LocalBackend(endless_policy, batch_size=4), name="tiny", max_new_tokens=8)


def written(monkeypatch: pytest.MonkeyPatch, model: MedVLM, text: str) -> None:
    """Have the model write a text."""
    generation = Generation(text=text, n_tokens=5, truncated=False)
    monkeypatch.setattr(model.backend, "generate", lambda items, settings: [generation] * len(items))


def test_the_package_gives_the_model_and_stays_light() -> None:
    code = (
        "import sys; import medvlm_r1; assert 'torch' not in sys.modules\n"
        "from medvlm_r1 import MedVLM; assert 'torch' not in sys.modules and MedVLM.ask"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import medvlm_r1

    with pytest.raises(AttributeError, match="MedVLN"):
        _ = medvlm_r1.MedVLN


def test_an_answer_holds_all_there_is(model: MedVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    written(monkeypatch, model, "<think>soft</think><answer>B</answer>")
    answer = model.ask(Image.new("RGB", (40, 30)), "Which organ?", OPTIONS)
    assert (answer.letter, answer.option, answer.reasoning, answer.well_formed) == ("B", "kidney", "soft", True)
    assert answer.confidence is not None
    assert tuple(answer.confidence) == OPTIONS
    assert sum(answer.confidence.values()) == pytest.approx(1)
    assert "40 x 30" in answer.image_note
    record = answer.as_record()
    assert record["image"]["size"] == [40, 30]
    assert record["notice"] == answer.notice == RESEARCH_USE


def test_confidence_is_that_of_the_letters_after_the_model_s_own_text(
    model: MedVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = Question(image=Image.new("RGB", (40, 30)), question="Which organ?", options=OPTIONS)
    prefills = {"<think>a</think><answer>A</answer><answer>": "<think>a</think><answer>", "<answer>B": "<answer>"}
    expected = []
    for text, prefill in prefills.items():
        written(monkeypatch, model, text)
        [answer] = model.ask_batch([question])
        expected += letter_probabilities(model.backend.policy, [prepare(question).item], [prefill], [3])
        assert tuple((answer.confidence or {}).values()) == pytest.approx(expected[-1])
    assert expected[0] != pytest.approx(expected[1])
    # There is none without options, without an answer tag, or if it is not asked for.
    assert model.ask(None, "Which organ?").confidence is None
    assert model.ask_batch([question], confidence=False)[0].confidence is None
    written(monkeypatch, model, "I think it is B.")
    assert model.ask_batch([question])[0].confidence is None


def test_a_letter_that_was_not_offered_is_none() -> None:
    generation = Generation(text="<think>x</think><answer>D</answer>", n_tokens=3, truncated=False)
    answer = read_answer(generation, OPTIONS)
    assert (answer.letter, answer.option, answer.answer, answer.well_formed) == (None, None, "D", True)
    same = read_answer(generation, ("a", "b", "a"), probabilities=(0.5, 0.3, 0.2))
    assert same.confidence == {"a": 0.7, "b": 0.3}


def test_a_batch_is_in_its_order_and_equals_single_questions_and_streams(model: MedVLM) -> None:
    questions = [
        Question(image=Image.new("RGB", (28 + n, 30), (20 * n, 99, 7)), question=f"{n}?", options=OPTIONS)
        for n in range(9)
    ]
    alone = [model.ask(query.image, query.question, query.options) for query in questions]
    assert model.ask_batch(questions) == alone
    assert len({answer.text for answer in alone}) > 4
    assert model.ask_batch([]) == []
    with model.stream(questions[0]) as stream:
        assert "28 x 30" in stream.pictures[0].note.summary()
        assert "".join(stream) == alone[0].text
    assert stream.answer == alone[0]
    assert list(stream) == []


def test_a_stream_that_is_left_stops_the_model(endless_policy: Any) -> None:
    model = MedVLM(LocalBackend(endless_policy), name="tiny", max_new_tokens=10**6)
    with model.stream(Question(question="Which organ?")) as stream:
        next(stream)
    # The next question waits for the model, so it is answered only once the endless stream has stopped.
    model.max_new_tokens = 2
    assert model.ask(None, "Which organ?").truncated
    assert stream.answer is None


def test_closing_stops_what_is_under_way_and_refuses_what_follows(endless_policy: Any) -> None:
    model = MedVLM(LocalBackend(endless_policy), name="tiny", max_new_tokens=10**6)
    stream = model.stream(Question(question="Which organ?"))
    next(stream)
    model.close()
    for ask in (lambda: list(stream), lambda: model.ask(None, "Which organ?")):
        with pytest.raises(Closed, match="closed before"):
            ask()


def test_an_error_while_streaming_reaches_the_reader(endless_policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalBackend(endless_policy)

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("full")

    monkeypatch.setattr(backend, "_run", fails)
    stream = MedVLM(backend, name="tiny").stream(Question(question="Which organ?"))
    with pytest.raises(MemoryError, match="full"):
        list(stream)


def test_sampling_is_seeded(model: MedVLM) -> None:
    texts = [model.ask(None, "Which organ?", temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_whatever_holds_an_image_gives_the_same_picture(tmp_path: Path) -> None:
    file = get_testdata_file("CT_small.dcm")
    expected = load_picture(file)
    for image in (file, Path(file), Path(file).read_bytes(), pydicom.dcmread(file), expected):
        picture = load(image)
        assert picture.image.tobytes() == expected.image.tobytes()
        assert picture.note == expected.note
    color = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    gray = np.arange(4000, dtype=np.uint16).reshape(50, 80)
    for array in (color, gray):
        Image.fromarray(array).save(tmp_path / "x.png")
        expected = load_picture(tmp_path / "x.png")
        for image in (array, Image.fromarray(array), Image.open(tmp_path / "x.png"), str(tmp_path / "x.png")):
            assert load(image).image.tobytes() == expected.image.tobytes()
            assert load(image).note.window == expected.note.window


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16"])
def test_every_mode_of_pillow_is_shown(mode: str) -> None:
    assert load(Image.new(mode, (5, 4))).image.size == (5, 4)


def test_an_image_is_rotated_by_exif(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.png", exif=exif)
    expected = load_picture(tmp_path / "x.png").image
    assert expected.size == (20, 30)
    assert load(Image.open(tmp_path / "x.png")).image.tobytes() == expected.tobytes()


def test_a_dataset_made_in_memory_is_shown() -> None:
    dataset = pydicom.Dataset()
    dataset.Rows = dataset.Columns = 2
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes([0, 80, 160, 255])
    assert np.asarray(load(dataset).image)[..., 0].tolist() == [[0, 80], [160, 255]]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (3, "a int"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2, 7), np.uint8), r"\(2, 2, 7\)"),
        (np.zeros((0, 2), np.uint8), r"\(0, 2\)"),
        (Image.new("F", (2, 2)), "floating-point"),
        (b"", "empty"),
        (b"hello", "not a PNG"),
        ("nowhere.png", "no such image"),
        (pydicom.Dataset(), "dataset"),
    ],
)
def test_what_is_no_image_is_told(image: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(image)


def test_a_volume_is_read_from_a_file_or_from_its_bytes(tmp_path: Path, model: MedVLM) -> None:
    file = tmp_path / "x.nii"
    nibabel.save(nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), file)
    answer = model.ask(file, "Which organ?", plane="axial", slice=2, window="full")
    assert "axial slice 2 of 5" in answer.image_note
    assert "window full" in answer.image_note
    with pytest.raises(UserError, match="choose a plane"):
        model.ask(file, "Which organ?")
    held = file.read_bytes()
    for data in (held, gzip.compress(held)):
        assert model.ask(data, "Which organ?", plane="axial", slice=2, window="full") == answer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": ["one"]}, "one option"),
        ({"options": ["x"] * 11}, "11 options"),
        ({"options": ["yes", "Yes"]}, "are the same"),
        ({"question": " "}, "empty"),
        ({"options": ["a", ""]}, "empty"),
        ({"template": "medvlm"}, "medvlm-r1"),
        ({"plane": "oblique"}, "axial"),
        ({"question": "<|image_pad|>"}, "control token"),
    ],
)
def test_what_cannot_be_asked_is_told(model: MedVLM, changes: dict[str, Any], words: str) -> None:
    wanted: dict[str, Any] = {"question": "Which organ?", "options": OPTIONS} | changes
    with pytest.raises(UsageError, match=words):
        model.ask(None, **wanted)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="max_new_tokens"):
        MedVLM.load("phantom-base", max_new_tokens=0)
    with pytest.raises(UserError, match="batch_size"):
        MedVLM.load("phantom-base", batch_size=0)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["A) liver", "B) knee"], ("liver", "knee")),
        (["(A) liver", "B: knee"], ("liver", "knee")),
        # Only where every option has its own letter: this one names a vitamin.
        (["A. Retinol", "C. Ascorbic acid"], ("A. Retinol", "C. Ascorbic acid")),
        (["liver", "knee"], ("liver", "knee")),
    ],
)
def test_letters_in_front_of_options_are_not_shown_twice(given: list[str], shown: tuple[str, ...]) -> None:
    prepared = prepare(Question(question="Which?", options=given))
    assert prepared.options == shown
    assert "A) A)" not in str(prepared.item.prompt)
