"""From samples to the rows TRL reads."""

import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from medvlm_r1.data import read_folder, write_folder
from medvlm_r1.errors import UserError
from medvlm_r1.prompts.templates import messages
from medvlm_r1.training import dataset
from medvlm_r1.training.dataset import build_dataset, describe, load_samples

INFO = {"name": "tiny", "source": "made by the tests", "license": "CC0-1.0"}


def test_rows_have_what_trainer_and_rewards_need(data_dir):
    samples = load_samples(str(data_dir))
    rows = build_dataset(
        str(data_dir), samples, template="answer-only", completions={sample.id: sample.letter for sample in samples}
    )
    row = rows[5]
    image = row.pop("images")
    assert [(picture.size, picture.getpixel((0, 0))) for picture in image] == [((40, 30), (150, 90, 160))]
    assert row == {
        "prompt": messages(samples[5], "answer-only"),
        "question": "Which organ is shown?",
        "letter": "B",
        "answer": "kidney",
        "options": ["liver", "kidney", "brain", "knee"],
        "sample_id": "q5",
        "modality": "CT",
        "boxes": None,
        "shown_size": None,
        "completion": [{"role": "assistant", "content": "B"}],
    }
    assert "completion" not in build_dataset(str(data_dir), samples, template="medvlm-r1").column_names
    # What SFTTrainer does, and what a data loader's workers do.
    fewer = rows.remove_columns(["letter", "options", "sample_id", "modality"])
    assert isinstance(fewer[0]["images"][0], Image.Image)
    assert isinstance(pickle.loads(pickle.dumps(rows))[0]["images"][0], Image.Image)


def test_questions_without_an_image(data_dir):
    samples = [replace(sample, images=()) for sample in load_samples(str(data_dir))]
    row = build_dataset(str(data_dir), samples, template="medvlm-r1")[0]
    assert row["images"] == []
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["text"]


def test_modalities_are_chosen(data_dir):
    chosen = load_samples(str(data_dir), modality=["CT"])
    assert [sample.id for sample in chosen] == ["q4", "q5", "q6", "q7"]
    described = describe(str(data_dir), chosen)
    assert (described["samples"], described["by_modality"]) == (4, {"CT": 4})
    with pytest.raises(UserError, match="no sample of modality PET; it has CT, MRI"):
        load_samples(str(data_dir), modality=["PET"])


def test_unreadable_images_and_open_questions(data_dir, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(data_dir, folder)
    (folder / "images/2.png").unlink()
    (folder / "images/3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 8 samples.*images/2\.png of 'q2'.*skip_missing"):
        load_samples(str(folder))
    assert [sample.id[1] for sample in load_samples(str(folder), skip_missing=True)] == list("014567")
    shutil.rmtree(folder / "images")
    with pytest.raises(UserError, match="no sample has a readable image"):
        load_samples(str(folder), skip_missing=True)

    samples = read_folder(data_dir)
    write_folder(
        folder,
        [replace(sample, images=(), options=sample.options if n < 3 else ()) for n, sample in enumerate(samples[:4])],
        info=INFO,
    )
    with pytest.raises(UserError, match=r"1 open questions, the first 'q3'.*open_answer"):
        load_samples(str(folder))
    mixed = load_samples(str(folder), open_questions=True)
    rows = build_dataset(str(folder), mixed, template="answer-only")
    assert rows[3]["prompt"][0]["content"][-1]["text"] == "Which organ is shown?\nAnswer in a few words."


@pytest.mark.parametrize("main", [True, False])
def test_the_main_process_works_for_all(monkeypatch, main):
    calls = []
    outcomes = iter([("samples", None), (None, UserError("no folder"))])

    def broadcast(box):
        outcome = next(outcomes)
        assert box == [None] or repr(box[0]) == repr(outcome)
        box[0] = outcome

    def fail():
        raise UserError("no folder")

    monkeypatch.setattr(dataset, "PartialState", lambda: SimpleNamespace(is_main_process=main))
    monkeypatch.setattr(dataset, "broadcast_object_list", broadcast)
    assert dataset.on_main_process(lambda: calls.append("work") or "samples") == "samples"
    with pytest.raises(UserError, match="no folder"):
        dataset.on_main_process(fail)
    assert calls == ["work"] * main
