"""The making of the embedded base: shortcuts give what the plain model gives, lessons are what they claim."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.base import stages
from benchmarks.base.architecture import IMAGE_TOKENS, build_model, build_processor, train_tokenizer
from benchmarks.base.batches import Rows, response_loss
from benchmarks.base.language import (
    CAREFUL,
    MIXTURE,
    ask_pair,
    box_text,
    careless,
    corpus,
    direct,
    prompt,
    reasoned,
    respond,
)
from benchmarks.base.pool import PIXELS, build_pool
from benchmarks.base.stages import Pretraining, Stage
from benchmarks.base.tower import HIDDEN, cells, crops, features, patches, targets, vary
from benchmarks.pretrain import pretrain
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.questions import NO_FINDING, Question, ask
from medvlm_r1.phantom.scene import KINDS, MODALITIES, NONE, SIZES, Scene
from medvlm_r1.rewards.accuracy_paper import accuracy_paper
from medvlm_r1.rewards.format_paper import format_paper

SEEN = Scene("MRI", "head", "axial", "FLAIR", "cyst", "left", "medium", (1, 0))
EMPTY = Scene("MRI", "head", "sagittal", "FLAIR", NONE, None, None, (1, 0))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus(0, 200))


@pytest.fixture(scope="module")
def processor(tokenizer):
    return build_processor(tokenizer)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return build_model(tokenizer).eval()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, PIXELS, PIXELS), dtype=np.uint8)


def pictures(images):
    return [Image.fromarray(image).convert("RGB") for image in images]


def questions(n=60):
    rng = np.random.default_rng(3)
    return [ask(MODALITIES[index % 3], (3, index), rng) for index in range(n)]


def rewards(question, text):
    letter = LETTERS[question.options.index(question.answer)]
    return accuracy_paper([""], [text], letter=[letter])[0], format_paper([""], [text])[0]


def test_patches_are_those_of_the_image_processor(processor, images):
    plain = processor.image_processor(images=pictures(images), return_tensors="pt")
    assert plain["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    torch.testing.assert_close(patches(images).flatten(0, 1), plain["pixel_values"], atol=1e-6, rtol=0)


def test_features_are_those_of_the_tower(model, images):
    pixels = patches(images)
    with torch.no_grad():
        plain = model.model.visual(pixels.flatten(0, 1), grid_thw=torch.tensor([[1, 8, 8]] * 3))
        states, tokens = features(model.model.visual, pixels)
    assert states.shape[:2] == (3, 64)
    assert tokens.shape[:2] == (3, IMAGE_TOKENS)
    torch.testing.assert_close(states.flatten(0, 1), plain.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens.flatten(0, 1), plain.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_rows_follow_the_chat_template(tokenizer, processor, images, count):
    content = [*[{"type": "image"}] * count, {"type": "text", "text": "Plane?\nA) axial"}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    plain = processor(text=[chat], images=pictures(images[:count]), return_tensors="pt").input_ids[0].tolist()
    ids, learned = Rows(tokenizer)(["Plane?\nA) axial"], [("", "<answer>A</answer>")], images=count)
    assert ids[0, : len(plain)].tolist() == plain
    assert not learned[0, : len(plain)].any()
    assert learned[0, len(plain) :].all()


def test_rows_learn_the_wanted_part_alone(tokenizer):
    rows = Rows(tokenizer)
    ids, learned = rows(["Plane?", "Plane?"], [("", "axial"), ("<think>Axial CT.", " A axial yes.</think>")], images=0)
    assert [tokenizer.decode(row[mask]) for row, mask in zip(ids, learned, strict=True)] == [
        "axial<|im_end|>",
        " A axial yes.</think><|im_end|>",
    ]
    padding = ids.shape[1] - len(rows(["Plane?"], [("", "axial")], images=0)[0][0])
    assert padding > 0
    assert ids[0, -padding:].tolist() == [rows.pad] * padding
    assert tokenizer.decode(ids[1]).startswith(
        "<|im_start|>user\nPlane?<|im_end|>\n<|im_start|>assistant\n<think>Axial"
    )


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_loss_is_the_models_own(model, tokenizer, count):
    rows = Rows(tokenizer)
    answers = [("", "<answer>A</answer>"), ("<think>Axial", " CT of the head.</think>"), ("", "It must be B.")]
    ids, learned = rows(["Which plane?", "Plane?", "What body part is this?"], answers, images=count)
    images = np.random.default_rng(0).integers(0, 256, (3 * count, PIXELS, PIXELS), dtype=np.uint8)
    pixels = patches(images) if count else None
    seen = {}
    if count:
        picture = model.config.image_token_id
        seen = {
            "mm_token_type_ids": (ids == picture).int(),
            "pixel_values": pixels.flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, 8, 8]] * len(images)),
        }
    # Padding lies on the right, after the row's only end-of-turn of the response.
    length = [int(mask.nonzero().max()) + 1 for mask in learned]
    attention = (torch.arange(ids.shape[1]) < torch.tensor(length)[:, None]).int()
    with torch.no_grad():
        loss, right = response_loss(model, rows, ids, learned, pixels)
        plain = model(input_ids=ids, attention_mask=attention, labels=ids.masked_fill(~learned, -100), **seen)
        best = plain.logits[:, :-1].argmax(-1)
    torch.testing.assert_close(loss, plain.loss, atol=1e-5, rtol=1e-5)
    assert right.tolist() == [bool((best[i] == ids[i, 1:])[learned[i, 1:]].all()) for i in range(3)]


def test_habits_earn_what_they_should():
    rng = np.random.default_rng(0)
    hits = []
    for question in questions(300):
        assert rewards(question, reasoned(question)) == (1.0, 1.0)
        assert respond(question, "reasoned", rng) == reasoned(question)
        accuracy, form = rewards(question, respond(question, "hasty", rng))
        assert form == 1.0
        hits.append(accuracy - 1 / len(question.options))
        for habit in ("bare", "untagged"):
            assert rewards(question, respond(question, habit, rng)) == (0.0, 0.0)
    assert set(np.array(hits) > 0) == {True, False}
    assert abs(np.mean(hits)) < 0.1  # a guess


def test_reasoned_weighs_every_option():
    question = Question(SEEN, "Disease Diagnosis", "finding", 0, ("mass", "cyst"), "cyst")
    assert prompt(question).startswith("Which abnormality is shown in this image?\nA) mass\nB) cyst\nYour task")
    assert reasoned(question) == (
        "<think>Axial FLAIR MRI of the head. There is a medium cyst on the patient's left. "
        "Finding: cyst. A mass no, B cyst yes.</think><answer>B</answer>"
    )
    assert respond(question, "untagged", np.random.default_rng(0)).endswith("A mass no, B cyst yes. The answer is B.")


@pytest.mark.parametrize("phrasing", [0, 3, 5])
def test_careless_follows_the_mixture(phrasing):
    assert sum(MIXTURE[phrasing].values()) == pytest.approx(1)
    question = Question(SEEN, "Disease Diagnosis", "finding", phrasing, ("mass", "cyst"), "cyst")
    rng = np.random.default_rng(phrasing)
    texts = [careless(question, rng) for _ in range(1500)]
    tagged = [text for text in texts if text.startswith("<think>")]
    shares = {
        "reasoned": texts.count(reasoned(question)),
        "hasty": len(tagged) - texts.count(reasoned(question)),
        "untagged": sum(text.endswith("The answer is B.") for text in texts),
    }
    shares["bare"] = len(texts) - sum(shares.values())
    for habit, share in MIXTURE[phrasing].items():
        assert shares[habit] / len(texts) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("template", ["medvlm-r1-box", "medvlm-r1-open"])
def test_each_template_has_its_answer(template):
    question = Question(SEEN, "Disease Diagnosis", "finding", 0, ("mass", "cyst"), "cyst")
    texts = {
        habit: respond(
            question, habit, np.random.default_rng(1), template=template, box=(0.123, 0.4, 0.2, 0.55)
        ).removeprefix("<think>Axial FLAIR MRI of the head. There is a medium cyst on the patient's left. ")
        for habit in CAREFUL
    }
    if template == "medvlm-r1-box":
        judged = "Finding: cyst. A mass no, B cyst yes."
        assert texts["reasoned"] == f"{judged}</think><box>120,400,200,550</box><answer>B</answer>"
        assert "</think><box>400,400,600,600</box><answer>" in texts["hasty"]
        assert "A) mass" in prompt(question, template=template)
    else:
        assert texts["reasoned"] == "Finding: cyst.</think><answer>cyst</answer>"
        assert texts["hasty"].split("<answer>")[1].removesuffix("</answer>") in (*KINDS, NO_FINDING)
        assert "A) mass" not in prompt(question, template=template)
    assert "<box>" not in texts["bare"] + texts["untagged"]
    assert box_text(None) == ""


def test_direct_answers_are_the_letter_alone():
    question = Question(SEEN, "Disease Diagnosis", "finding", 0, ("mass", "cyst"), "cyst")
    assert direct(question, "answer-only") == "B"
    assert direct(question, "no-think") == "<answer>B</answer>"


def test_questions_on_two_images_are_true():
    rng = np.random.default_rng(4)
    scenes = [question.scene for question in questions(200)]
    answers = []
    for first, second in zip(scenes[::2], scenes[1::2], strict=True):
        pair = ask_pair(first, second, rng)
        shown = [getattr(scene, pair.attribute) == pair.value for scene in (first, second)]
        named = {"first image": [1, 0], "second image": [0, 1], "both images": [1, 1], "neither image": [0, 0]}
        assert shown == named[pair.answer]
        assert pair.answer in pair.options
        assert len(set(pair.options)) == len(pair.options) >= 2
        assert pair.value in prompt(pair)
        assert rewards(pair, reasoned(pair)) == (1.0, 1.0)
        answers.append(pair.answer)
    assert set(answers) == set(named)


def test_cells_are_the_patches_a_finding_touches():
    # Patches are 14 pixels; this finding reaches about half a patch, so only what its middle touches.
    boxes = np.array([[70.0, 42.0, 84.0, 56.0], [70.0, 35.0, 84.0, 49.0], [np.nan] * 4])
    lit = np.zeros((3, PIXELS, PIXELS), np.uint8)
    lit[0, 42:56, 70:84] = 255  # the middle of a patch
    lit[1, 28:56, 70:84] = 255  # the line between two
    touched = patches(lit).mean(dim=2) > patches(lit).mean()
    assert touched.sum(dim=1).tolist() == [1, 2, 0]
    kinds, sizes = cells(boxes, [SEEN, SEEN, EMPTY])
    assert kinds.tolist() == torch.where(touched, KINDS.index("cyst"), len(KINDS)).tolist()
    assert sizes.tolist() == torch.where(touched, SIZES.index("medium"), HIDDEN).tolist()


def test_targets_hide_what_the_image_cannot_tell():
    sideways = Scene("MRI", "head", "sagittal", "FLAIR", "cyst", "left", "medium", (1, 0))
    wanted = targets([SEEN, sideways, EMPTY])
    assert wanted["side"].tolist() == [1, HIDDEN, HIDDEN]
    assert wanted["finding"].tolist() == [KINDS.index("cyst")] * 2 + [len(KINDS)]
    assert wanted["size"].tolist() == [1, 1, 3]


@pytest.mark.parametrize("change", [vary, partial(crops, side=PIXELS // 2)])
def test_changed_images_keep_their_findings_in_the_boxes(change):
    images = np.full((60, PIXELS, PIXELS), 20, np.uint8)
    images[:, 36:45, 56:65] = 200
    boxes = np.tile(np.array([56.0, 36.0, 65.0, 45.0]), (60, 1))
    boxes[-1] = np.nan
    changed, moved = change(images, boxes, rng=np.random.default_rng(1))
    inside, around = 0, 0
    for image, (x1, y1, x2, y2) in zip(changed[:-1], moved[:-1], strict=True):
        assert 8 <= x2 - x1 <= 10
        rows, columns = slice(max(0, round(y1) + 1), round(y2) - 1), slice(max(0, round(x1) + 1), round(x2) - 1)
        finding = image[rows, columns]
        if finding.size:
            inside += finding.mean() > 1.5 * np.median(image)
            around += 1
    assert around >= 40
    assert inside >= 0.9 * around
    assert len({tuple(row) for row in moved[:-1]}) > 5
    assert np.isnan(moved[-1]).all()


def test_the_pool_is_kept_and_its_subjects_are_its_own(tmp_path):
    calls = []
    pool = build_pool(tmp_path, 6, 0, lambda done, n: calls.append((done, n)))
    boxes = np.load(tmp_path / "boxes.npy")
    boxes[4:] = np.inf  # as after an interruption
    np.save(tmp_path / "boxes.npy", boxes)
    again = build_pool(tmp_path, 6, 0, lambda done, n: calls.append((done, n)))
    assert calls == [(done, 6) for done in (*range(1, 7), 5, 6)]
    assert {scene.seed[0] for scene in pool.scenes} == {SPLITS["pretrain"]}
    assert again.scenes == pool.scenes
    assert (again.images == pool.images).all()
    np.testing.assert_array_equal(again.boxes, pool.boxes)
    for scene, finding in zip(pool.scenes, pool.boxes, strict=True):
        assert np.isnan(finding).all() == (scene.finding == NONE)


def test_pretraining_writes_a_model_and_resumes_within_a_stage(tmp_path, monkeypatch):
    plan = {
        name: Stage(steps=3, batch=4, lr=1e-3)
        for name in ("lesions", "tower", "options", "reading", "letters", "habits")
    }
    calls = []

    def report(stage, step, steps, figures):
        assert np.isfinite(figures["loss"])
        calls.append((stage, step, steps))

    def run(work="work", **changes):
        calls.clear()
        pretrain(tmp_path / "model", tmp_path / work, **{"subjects": 16, "plan": plan, "report": report, **changes})
        return load_file(tmp_path / "model" / "model.safetensors")

    first = run()
    assert calls == [(name, 3, 3) for name in plan]
    policy = load_policy(str(tmp_path / "model"), device="cpu")
    assert sum(p.numel() for p in policy.model.parameters()) < 6e6
    again = run()
    assert calls == []
    # Stopped after two of three steps of every stage.
    monkeypatch.setattr(stages, "SAVE_STEPS", 2)
    save = Pretraining._save

    def stop(self, file, optimizer, steps):
        save(self, file, optimizer, steps)
        raise KeyboardInterrupt

    for _ in plan:
        monkeypatch.setattr(Pretraining, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
        monkeypatch.setattr(Pretraining, "_save", save)
    resumed = run("stopped")
    assert calls == [("habits", 3, 3)]
    for weights in (again, resumed):
        assert weights.keys() == first.keys()
        assert all(torch.equal(weights[key], first[key]) for key in first)
    with pytest.raises(UserError, match="other settings"):
        run(seed=1)
