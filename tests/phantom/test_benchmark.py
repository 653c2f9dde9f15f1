"""PhantomVQA on disk: the same bytes again, separate subjects, and text alone no help."""

import dataclasses
import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.option_prior import longest_option, option_prior
from medvlm_r1.errors import UsageError
from medvlm_r1.phantom.benchmark import DEFAULT_N, SPLITS, draw_questions, write_benchmark
from medvlm_r1.phantom.questions import TYPES, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene, finding_box, render


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    calls = []
    samples = write_benchmark(tmp_path / "a", n=4, progress=lambda done, n: calls.append((done, n)))
    write_benchmark(tmp_path / "b", n=4)
    assert calls == [(done, 12) for done in range(1, 13)]
    assert Counter(s.modality for s in samples) == dict.fromkeys(MODALITIES, 4)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    read = read_folder(tmp_path / "a")
    fields = ("id", "question", "options", "answer", "images")
    assert [[getattr(s, f) for f in fields] for s in read] == [[getattr(s, f) for f in fields] for s in samples]
    assert {s.split for s in read} == {"test"}
    assert len({s.subject for s in read}) == 12
    info = json.loads((tmp_path / "a" / "info.json").read_text())
    assert (info["name"], info["split"], info["seed"]) == ("PhantomVQA", "test", 0)
    for sample in read[::5]:
        [truth] = sample.truth["images"]
        scene = dataclasses.replace(Scene.from_truth(truth), seed=tuple(sample.record["seed"]))
        assert scene.truth() == truth
        assert sample.record["description"] == describe(scene)
        assert sample.truth["asks"] in TYPES[sample.question_type]
        edges = [(box.label, box.image, (box.x1, box.y1, box.x2, box.y2)) for box in sample.boxes]
        assert edges == ([(scene.finding, 0, finding_box(scene))] if truth["findings"] else [])
        with Image.open(tmp_path / "a" / sample.images[0]) as image:
            assert (np.asarray(image) == render(scene)).all()


def test_training_is_on_mri_alone_and_another_seed_gives_other_images(tmp_path):
    images = []
    for seed in (0, 1):
        [sample] = write_benchmark(tmp_path / str(seed), split="train", n=1, seed=seed)
        assert (sample.modality, sample.split) == ("MRI", "train")
        images.append((tmp_path / str(seed) / sample.images[0]).read_bytes())
    assert images[0] != images[1]


def test_subjects_of_different_splits_are_never_the_same():
    subjects = []
    for split in DEFAULT_N:
        for seed in (0, 1):
            for modality in MODALITIES:
                subjects += [q.scene.seed for q in draw_questions(split, modality, 8, seed)]
                assert subjects[-1][0] == SPLITS[split]
    assert len(set(SPLITS.values())) == len(SPLITS)
    assert len(set(subjects)) == len(subjects)


@pytest.mark.parametrize("seed", [0, 1])
def test_text_alone_stays_at_chance(seed):
    train = draw_questions("train", "MRI", DEFAULT_N["train"], seed)
    tests = {m: draw_questions("test", m, DEFAULT_N["test"], seed) for m in MODALITIES}
    for name, items in {"train": train, **tests}.items():
        letters = Counter(q.options.index(q.answer) for q in items)
        credits = [
            option_prior(items, items, leave_one_out=True),
            longest_option(items),
            max(letters.values()) / len(items),
        ]
        credits += [option_prior(train, items)] if name != "train" else []
        credits += [option_prior(tests["MRI"], items)] if name in ("CT", "X-ray") else []
        chance = np.mean([1 / len(q.options) for q in items])
        assert max(abs(np.mean(credit) - chance) for credit in credits) < 0.03, name
        assert {q.type for q in items} == set(TYPES)
        assert {q.phrasing for q in items} == set(range(6))


@pytest.mark.parametrize(
    ("split", "modality", "digest"),
    [
        ("train", "MRI", "ffa8739e0a4e2dbd"),
        ("test", "MRI", "d9eca3412de569cc"),
        ("test", "CT", "dd0f411717558780"),
        ("test", "X-ray", "0eabe327db4a3f22"),
    ],
)
def test_the_benchmark_stays_the_benchmark(split, modality, digest):
    """Seed 0 always has the same questions about the same subjects: published figures depend on them."""
    questions = draw_questions(split, modality, DEFAULT_N[split], 0)
    record = json.dumps([(q.text, q.options, q.answer, describe(q.scene), q.scene.seed) for q in questions])
    assert hashlib.sha256(record.encode()).hexdigest()[:16] == digest


def test_giveaways_are_as_strong_as_in_the_published_sets(tmp_path):
    """Within 3 points of `audit data` on the 900 published questions: leave one out, and fitted on MRI minus chance."""
    published = {"MRI": 97.2, "CT": 97.2, "X-ray": 90.0}
    gains = {"CT": 46.7 - 30.2, "X-ray": 24.3 - 26.0}
    train, mri = (draw_questions(split, "MRI", DEFAULT_N[split], 0, giveaway=True) for split in ("train", "test"))
    for modality in MODALITIES:
        planted, clean = (draw_questions("test", modality, DEFAULT_N["test"], 0, giveaway=g) for g in (True, False))
        assert abs(100 * np.mean(option_prior(planted, planted, leave_one_out=True)) - published[modality]) < 3
        chance = np.mean([1 / len(q.options) for q in planted])
        for fit in (mri, train) if modality in gains else ():
            assert abs(100 * (np.mean(option_prior(fit, planted)) - chance) - gains[modality]) < 3
        assert np.mean(option_prior(train, clean)) < np.mean([1 / len(q.options) for q in clean]) + 0.1
    samples = write_benchmark(tmp_path / "planted", n=2, giveaway=True)
    assert json.loads((tmp_path / "planted" / "info.json").read_text())["giveaway"] is True
    assert samples[0].id == "phantom-giveaway-test-0-mri-00000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "Unknown split 'validation'"),
        ({"split": "pretrain"}, "Unknown split 'pretrain'"),
        ({"modalities": ["OCT"]}, "Unknown modality 'OCT'"),
        ({"n": 0}, "--n is 0"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        write_benchmark(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
