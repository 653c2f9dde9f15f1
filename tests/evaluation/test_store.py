"""The store: nothing lost, nothing rewritten, nothing half read."""

import json

import pytest
from PIL import Image

from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.store import (
    ANSWERS,
    RESULTS,
    AnswerKey,
    AnswerStore,
    StoredAnswer,
    answers_kind,
    hash_pixels,
    hash_prompt,
    read_answers,
    read_results,
    write_results,
)
from medvlm_r1.models.generate import Generation
from scripted import make_samples, tagged

KEY = AnswerKey(model="m", prompt="p", pixels="x", max_new_tokens=512, temperature=0.0, seed=0)
SAMPLES = make_samples()


def answer(n, text=""):
    generation = Generation(text=text or tagged("A"), n_tokens=7, truncated=False)
    return StoredAnswer(sample=SAMPLES[n], generation=generation, seconds=0.5, model="m", template="medvlm-r1", key=KEY)


def store_answers(folder, *answers):
    with AnswerStore(folder) as store:
        store.append(answers)


def test_what_is_written_is_read_again(tmp_path):
    texts = ("", "<think>line\nline \u2028 é 脑</think><answer>B</answer>", "\ud83d")
    written = [answer(n, text) for n, text in enumerate(texts)]
    with AnswerStore(tmp_path) as store:
        store.append(written)
        # On disk before the store is closed.
        assert read_answers(tmp_path) == written
    rows = [json.loads(line) for line in (tmp_path / ANSWERS).read_text().rstrip().split("\n")]
    assert [(row["letter"], row["correct"]) for row in rows] == [("A", True), ("B", False), (None, False)]


def test_a_half_written_last_line_is_dropped_and_written_anew(tmp_path):
    store_answers(tmp_path, answer(0), answer(1))
    path = tmp_path / ANSWERS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(read_answers(tmp_path)) == 1
    # Reading leaves the file alone.
    assert path.read_bytes() == whole[:-20]
    with AnswerStore(tmp_path) as store:
        assert list(store.answers) == ["q0"]
        store.append([answer(1)])
    assert path.read_bytes() == whole


def test_an_evaluation_of_version_0_1_is_read_and_resumed_under_the_new_name(tmp_path):
    store_answers(tmp_path, answer(0))
    old = tmp_path / "samples.jsonl"
    row = json.loads((tmp_path / ANSWERS).read_text())
    del row["variant"]
    old.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"answers\.jsonl and samples\.jsonl; remove one"), AnswerStore(tmp_path):
        pass
    (tmp_path / ANSWERS).unlink()
    assert read_answers(tmp_path) == [answer(0)]
    assert not (tmp_path / ANSWERS).exists()
    store_answers(tmp_path, answer(1))
    assert not old.exists()
    assert read_answers(tmp_path) == [answer(0), answer(1)]


def test_rows_of_a_data_folder_are_not_renamed_and_those_of_an_audit_are_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"id": "q0", "question": "Why?"}\n')
    with pytest.raises(UserError, match="row 1: not an answer"), AnswerStore(tmp_path):
        pass
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["samples.jsonl"]
    (tmp_path / ANSWERS).write_text('{"id": "q0", "plan": ""}\n')
    assert answers_kind(tmp_path / ANSWERS) == "a model audit"
    with pytest.raises(UserError, match="the answers of a model audit"):
        read_answers(tmp_path)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"{not json}\n", "row 2: malformed JSON"),
        (b'{"id": "q9"}\n', "row 2: not an answer of `medvlm-r1 eval` \\(no field 'images'\\)"),
    ],
)
def test_a_foreign_line_is_an_error_with_its_row(tmp_path, line, seen):
    store_answers(tmp_path, answer(0))
    with (tmp_path / ANSWERS).open("ab") as file:
        file.write(line)
    with pytest.raises(UserError, match=seen):
        read_answers(tmp_path)


def test_the_same_item_twice_is_an_error(tmp_path):
    store_answers(tmp_path, answer(0), answer(1), answer(0))
    with pytest.raises(UserError, match=r"row 3: id 'q0' was answered in row 1"):
        read_answers(tmp_path)
    with pytest.raises(UserError, match="no such file; wanted the answers of `medvlm-r1 eval"):
        read_answers(tmp_path / "elsewhere")


def test_pixels_are_hashed_in_their_order_and_shape_and_prompts_by_content():
    image, other = Image.new("RGB", (3, 2), (1, 2, 3)), Image.new("RGB", (3, 2), (1, 2, 3))
    assert hash_pixels([image]) == hash_pixels([other])
    other.putpixel((0, 0), (1, 2, 4))
    hashes = [[image], [other], [image, image], [image, other], [other, image], [image.resize((2, 3))]]
    assert len({hash_pixels(images) for images in hashes}) == len(hashes)
    prompts = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in "ab"]
    reordered = [{"content": [{"text": "a", "type": "text"}], "role": "user"}]
    assert hash_prompt(prompts[0]) == hash_prompt(reordered) != hash_prompt(prompts[1])


def test_results_are_written_whole_or_not_at_all(tmp_path):
    write_results(tmp_path, {"accuracy": {"mean": 50.0}})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path, {"accuracy": float("nan")})
    assert json.loads((tmp_path / RESULTS).read_text()) == {"accuracy": {"mean": 50.0}}
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ("{", "not JSON"),
        ("3", "not JSON results"),
        ('{"accuracy": 1}', "no model, .*, lenient,"),
    ],
)
def test_foreign_results_are_an_error(tmp_path, content, seen):
    (tmp_path / RESULTS).write_text(content)
    with pytest.raises(UserError, match=seen):
        read_results(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_results(tmp_path / "elsewhere")
