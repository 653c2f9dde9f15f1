"""PhantomVQA on disk: the same bytes again, subjects apart, and text alone no help."""

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
from medvlm_r1.phantom.scene import MODALITIES, Scene, render


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
    assert [(s.id, s.question, s.options, s.answer, s.images) for s in read] == [
        (s.id, s.question, s.options, s.answer, s.images) for s in samples
    ]
    assert {s.split for s in read} == {"test"}
    assert len({s.subject for s in read}) == 12
    info = json.loads((tmp_path / "a" / "info.json").read_text())
    assert info["name"] == "PhantomVQA"
    assert (info["split"], info["seed"]) == ("test", 0)
    for sample in read[::5]:
        scene = Scene(**{**sample.record["scene"], "seed": tuple(sample.record["scene"]["seed"])})
        assert sample.record["truth"] == describe(scene)
        with Image.open(tmp_path / "a" / sample.images[0]) as image:
            assert (np.asarray(image) == render(scene)).all()


def test_another_seed_gives_other_images(tmp_path):
    for seed in (0, 1):
        write_benchmark(tmp_path / str(seed), split="train", modalities=["CT"], n=1, seed=seed)
    first, second = (next((tmp_path / str(seed) / "images").iterdir()).read_bytes() for seed in (0, 1))
    assert first != second


def test_training_is_on_mri_alone(tmp_path):
    samples = write_benchmark(tmp_path, split="train", n=2)
    assert [(s.modality, s.split) for s in samples] == [("MRI", "train")] * 2


def test_subjects_of_different_splits_are_never_the_same():
    assert len(set(SPLITS.values())) == len(SPLITS)
    seen = {}
    for split in DEFAULT_N:
        for seed in (0, 1):
            for modality in MODALITIES:
                subjects = {q.scene.seed for q in draw_questions(split, modality, 8, seed)}
                assert len(subjects) == 8
                assert {subject[0] for subject in subjects} == {SPLITS[split]}
                seen[split, seed, modality] = subjects
    assert len(set().union(*seen.values())) == 8 * len(seen)


@pytest.mark.parametrize("seed", [0, 1])
def test_text_alone_stays_at_chance(seed):
    train = draw_questions("train", "MRI", DEFAULT_N["train"], seed)
    tests = {m: draw_questions("test", m, DEFAULT_N["test"], seed) for m in MODALITIES}
    for name, items in {"train": train, **tests}.items():
        chance = np.mean([1 / len(q.options) for q in items])
        alone = np.mean(option_prior(items, items, leave_one_out=True))
        assert abs(np.mean(longest_option(items)) - chance) < 0.03, name
        letters = Counter(q.options.index(q.answer) for q in items)
        assert abs(alone - chance) < 0.03, name
        assert max(letters.values()) / len(items) < chance + 0.03, name
        if name != "train":
            fitted = np.mean(option_prior(train, items))
            assert abs(fitted - chance) < 0.03, name
        if name in ("CT", "X-ray"):
            assert abs(np.mean(option_prior(tests["MRI"], items)) - chance) < 0.03, name
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
    """Whatever is added, seed 0 asks the same questions about the same subjects: published figures rest on them."""
    questions = draw_questions(split, modality, DEFAULT_N[split], 0)
    asked = json.dumps([(q.text, q.options, q.answer, describe(q.scene), q.scene.seed) for q in questions])
    assert hashlib.sha256(asked.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_shortcut_carries_over_to_every_modality_and_not_to_clean_questions(seed):
    train = draw_questions("train", "MRI", DEFAULT_N["train"], seed, shortcut=True)
    assert np.mean(option_prior(train, train, leave_one_out=True)) > 0.9
    for modality in MODALITIES:
        planted = draw_questions("test", modality, DEFAULT_N["test"], seed, shortcut=True)
        assert np.mean(option_prior(train, planted)) > 0.9
        assert np.mean(option_prior(planted, planted, leave_one_out=True)) > 0.9
        clean = draw_questions("test", modality, DEFAULT_N["test"], seed)
        assert np.mean(option_prior(train, clean)) < np.mean([1 / len(q.options) for q in clean]) + 0.1


def test_a_benchmark_with_a_shortcut_says_so(tmp_path):
    samples = write_benchmark(tmp_path, n=2, shortcut=True)
    assert json.loads((tmp_path / "info.json").read_text())["shortcut"] is True
    assert samples[0].id == "phantom-shortcut-test-0-mri-00000"
    clean = {s.id for s in write_benchmark(tmp_path / "clean", n=2)}
    assert clean.isdisjoint(s.id for s in samples)
    assert "shortcut" not in json.loads((tmp_path / "clean" / "info.json").read_text())


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
