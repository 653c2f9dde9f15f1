"""The set without the solved items: what stays, with its images, and what is refused."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.audit.dataset.audit import audit_data
from medvlm_r1.audit.dataset.clean import write_clean
from medvlm_r1.audit.dataset.prior_source import find_prior_source
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.errors import UsageError, UserError


@pytest.fixture
def folder(question, tmp_path):
    """Five questions, two images; leave one out solves q1 to q3, the longest option q4, and q5 is open."""
    samples = [
        *(question("cyst mass", 0) for _ in range(3)),
        question("node tumor", 1, "CT"),
        question("node tumor", 0, "CT"),
        question("", modality="CT"),
    ]
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    for name in ("q1", "q5"):
        Image.new("L", (4, 4), 9).save(source / f"images/{name}.png")
    info = {"name": "hand", "license": "CC0-1.0", "source": "made by the tests", "counts": {"wished": 3}}
    write_folder(source, samples, info=info)
    return source


def clean(folder, **arguments):
    samples = read_folder(folder)
    fit = arguments.pop("fit", None)
    audit = audit_data(samples, find_prior_source(fit, folder, samples) if fit else None)
    return write_clean(folder, folder.parent / "clean", samples, audit, **arguments)


def test_what_remains(folder):
    calls = []
    named = ["longest", "option_prior_loo"]
    done = clean(folder, baselines=named, progress=lambda a, b: calls.append((a, b)))
    assert [(sample.id, sample.missing) for sample in read_folder(done.folder)] == [("q5", False), ("q6", True)]
    assert (done.kept, done.removed, done.missing) == ({"MRI": 0, "CT": 2}, {"MRI": 3, "CT": 1}, 1)
    assert [file.name for file in (done.folder / "images").iterdir()] == ["q5.png"]
    assert (done.folder / "images/q5.png").read_bytes() == (folder / "images/q5.png").read_bytes()
    info = json.loads((done.folder / "info.json").read_text())
    assert (info["name"], info["license"]) == ("hand", "CC0-1.0")
    assert info["counts"] == {"samples": 2, "missing": 1, "by_modality": {"CT": 2}}
    assert info["clean"] == {"of": "source", "without_solved_by": named, "removed": 4}
    assert calls == [(1, 2), (2, 2)]
    # Its own baselines come along: on one question the longest option is wrong.
    assert done.record()["baselines"]["longest"]["CT"]["percent"] == 0
    assert done.record()["without"] == named


def test_all_baselines_count_unless_some_are_named_and_unnamed_images_stay_missing(folder):
    samples = [replace(s, images=(), missing=True) if s.id == "q6" else s for s in read_folder(folder)]
    write_folder(folder, samples, info={})
    done = clean(folder)
    assert done.baselines == ("majority", "longest", "option_prior_loo")
    # A and B are correct once each in CT: a tie solves nothing, so the majority letter removes no more.
    assert [(sample.id, sample.missing) for sample in read_folder(done.folder)] == [("q5", False), ("q6", True)]
    assert done.missing == 1


def test_ties_are_not_solved_and_open_questions_stay(folder, question, tmp_path):
    done = clean(folder, baselines=["option_prior_fit"], fit="MRI")
    assert sum(done.removed.values()) == 0
    # When only open questions remain there is nothing to audit.
    write_folder(tmp_path / "other" / "source", [question("a b"), question("a b"), question("")], info={})
    done = clean(tmp_path / "other" / "source")
    assert [sample.answer for sample in read_folder(done.folder)] == ["a cyst"]
    assert (done.audit, done.record()["baselines"]) == (None, {})


def test_nothing_remains(question, tmp_path):
    write_folder(tmp_path / "source", [question("a b"), question("a b")], info={})
    with pytest.raises(UserError, match=r"solve all 2 questions; nothing remains .*--clean-of"):
        clean(tmp_path / "source")
    assert not (tmp_path / "clean").exists()


@pytest.mark.parametrize(
    ("baselines", "words"),
    [(["longst"], "did you mean 'longest'"), (["chance"], "not a blind baseline"), (["option_prior_fit"], "--fit-on")],
)
def test_unknown_baselines(folder, baselines, words):
    with pytest.raises(UsageError, match=words):
        clean(folder, baselines=baselines)
    assert not (folder.parent / "clean").exists()


def test_refused_folders(folder):
    out = folder.parent / "clean"
    (folder.parent / "secret.png").write_bytes(b"secret")
    (folder / "images/q5.png").unlink()
    (folder / "images/q5.png").symlink_to(folder.parent / "secret.png")
    with pytest.raises(UserError, match="outside"):
        clean(folder)
    assert not (out / "samples.jsonl").exists()
    out.mkdir(exist_ok=True)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="there is something already"):
        clean(folder)
    assert (out / "mine.txt").read_text() == "mine"
