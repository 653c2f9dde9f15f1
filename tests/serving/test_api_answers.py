"""What OpenAI has no word for: slice and window of an image in the request, and the answer read from a completion."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from pydicom.data import get_testdata_file
from served import NAME, Served, user

OPTIONS = ["liver", "kidney", "brain"]
_VOLUME = nibabel.Nifti1Image(np.arange(24 * 26 * 28, dtype=np.int16).reshape(24, 26, 28), np.eye(4)).to_bytes()
with open(get_testdata_file("CT_small.dcm", download=False), "rb") as _file:
    _DICOM = _file.read()


def uri(data: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(data).decode()


def image(data: bytes, **view: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": uri(data), **view}}


def turn(*images: dict[str, Any], text: str = "Which organ is shown?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def send(served: Served, **wanted: Any) -> httpx.Response:
    body = {"model": NAME, "temperature": 0, "messages": user()} | wanted
    return httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=300)


@pytest.mark.parametrize("data", [_VOLUME, gzip.compress(_VOLUME)], ids=["nii", "nii.gz"])
def test_a_slice_of_a_volume_is_chosen_beside_its_url(served: Served, data: bytes) -> None:
    view: dict[str, Any] = {"plane": "coronal", "slice": 7, "window": "300/500"}
    reply = served.client().chat.completions.create(
        model=NAME, temperature=0, messages=turn(image(data, **view)), extra_body={"template": "medvlm-r1"}
    )
    expected = served.medvlm.ask(data, "Which organ is shown?", **view)
    assert "coronal slice 7 of 26" in expected.image_note
    assert "window given 300/500" in expected.image_note
    assert reply.choices[0].answer == expected.as_record()


def test_a_volume_without_a_slice_says_how_to_choose_one(served: Served) -> None:
    reply = send(served, messages=turn(image(_VOLUME)))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "messages[0].content[0]")
    for said in ("axial 28, coronal 26, sagittal 24", "fields of image_url", '"plane"', '"slice"'):
        assert said in error["message"]


def test_a_window_changes_what_the_model_is_shown(served: Served) -> None:
    notes = []
    for window in (None, "bone", "100/300"):
        reply = send(served, messages=turn(image(_DICOM, window=window)), template="medvlm-r1")
        notes.append(reply.json()["choices"][0]["answer"]["image"]["window"])
    assert [note["name"] for note in notes] == ["soft-tissue", "bone", "given"]
    assert (notes[2]["centre"], notes[2]["width"]) == (100, 300)


def test_each_choice_has_its_answer_with_the_probabilities_of_its_options(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def weigh(items: Any, turns: list[str], counts: list[int]) -> list[tuple[float, ...]]:
        asked.extend(zip(turns, counts, strict=True))
        return [(0.5, 0.3, 0.2)] * len(turns)

    monkeypatch.setattr(served.medvlm.backend, "letters", weigh)
    # The tiny model writes no tags; the row's text is made one that has them.
    text = "<think>soft</think><answer>B</answer>"
    monkeypatch.setattr("medvlm_r1.serving.job.Row._text", lambda row: text)
    reply = send(served, n=2, options=OPTIONS).json()
    for choice in reply["choices"]:
        answer = choice["answer"]
        assert (answer["letter"], answer["option"], answer["reasoning"]) == ("B", "kidney", "soft")
        assert answer["confidence"] == {"liver": 0.5, "kidney": 0.3, "brain": 0.2}
        assert answer["notice"] == "Research use only. Not a medical device."
    assert asked == [("<think>soft</think><answer>", 3)] * 2


def test_the_last_chunk_of_a_stream_has_the_answer(served: Served) -> None:
    wanted: dict[str, Any] = {"model": NAME, "temperature": 0, "messages": turn(image(_DICOM)), "n": 2}
    more = {"options": OPTIONS, "template": "medvlm-r1"}
    chunks = served.client().chat.completions.create(**wanted, stream=True, extra_body=more)
    told = [chunk.choices[0] for chunk in chunks]
    answers = [choice.answer for choice in told if choice.finish_reason]
    expected = served.medvlm.ask(_DICOM, "Which organ is shown?", OPTIONS)
    assert answers == [expected.as_record()] * 2
    assert not any(hasattr(choice, "answer") for choice in told if not choice.finish_reason)


def test_without_options_and_template_a_choice_is_openai_s_alone(served: Served) -> None:
    assert set(send(served).json()["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"options": ["one"]}, 400, "options"),
        ({"options": ["x"] * 11}, 400, "options"),
        ({"options": ["a", ""]}, 400, "options"),
        ({"options": ["a", "<|image_pad|>"]}, 400, "options[1]: the text holds the control token"),
        ({"options": ["a", " "], "template": "medvlm-r1"}, 400, "cannot be asked"),
        ({"options": OPTIONS, "template": "no-such"}, 400, "medvlm-r1"),
        ({"template": "medvlm-r1", "messages": [*turn(), *turn()]}, 400, "template: it is put around one user's turn"),
        ({"template": "medvlm-r1", "messages": [{"role": "system", "content": "x"}]}, 400, "one user's turn"),
        ({"messages": turn(image(_DICOM, window="wide"))}, 400, "messages[0].content[0]: window 'wide'"),
        ({"messages": turn(image(_DICOM, window="1e400/1"))}, 400, "finite"),
        ({"messages": turn(image(_DICOM, window="x" * 65))}, 400, "window"),
        ({"messages": turn(image(_DICOM, slice=2))}, 400, "slice"),
        ({"messages": turn(image(_DICOM, frame=1))}, 400, "frame 1"),
        ({"messages": turn(image(_VOLUME, plane="axial", slice=28))}, 400, "wanted 0 to 27"),
        ({"messages": turn(image(_VOLUME, plane="axial", slice=-1))}, 400, "slice"),
        ({"messages": turn(image(_VOLUME, plane="axial", slice=2**31))}, 400, "slice"),
        ({"messages": turn(image(_VOLUME, plane="oblique", slice=1))}, 400, "plane"),
        ({"messages": turn(image(gzip.compress(_VOLUME)[:200], plane="axial", slice=1))}, 400, "the NIfTI header"),
        ({"messages": turn(image(b"\x1f\x8b" + b"x" * 60))}, 400, "the gzip file is damaged"),
    ],
)
def test_a_view_or_options_that_cannot_be_are_told(
    served: Served, changes: dict[str, Any], status: int, said: str
) -> None:
    reply = send(served, **changes)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_a_volume_that_would_inflate_without_end_is_refused(served: Served) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((1024, 1024, 1025))
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_sform(np.eye(4), 1)
    bomb = gzip.compress(header.binaryblock + bytes(2**20))
    reply = send(served, messages=turn(image(bomb, plane="sagittal", slice=1)))
    assert reply.status_code == 413
    assert "1024 x 1024 x 1025" in reply.json()["error"]["message"]


def _strange() -> Iterator[np.ndarray[Any, Any]]:
    largest = np.finfo(np.float64).max
    yield np.where(np.arange(60) % 2, largest, -largest).reshape(3, 4, 5)
    yield np.full((3, 4, 5), np.nan)
    yield np.full((3, 4, 5), -np.inf)


@pytest.mark.parametrize("window", [None, "full", "percentile", "1e308/1e308", "40/400"])
def test_values_that_json_has_no_word_for_never_reach_it(served: Served, window: str | None) -> None:
    for values in _strange():
        data = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
        for stream in (False, True):
            messages = turn(image(data, plane="axial", slice=1, window=window))
            reply = send(served, messages=messages, template="medvlm-r1", stream=stream, max_tokens=1)
            assert reply.status_code in (200, 400)
            assert "Infinity" not in reply.text
            assert "NaN" not in json.dumps(reply.text)
