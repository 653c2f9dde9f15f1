"""The audit of a data set: a set by hand, the released questions, PhantomVQA, and what --fit-on may be."""

import json
from pathlib import Path

import pytest

from medvlm_r1.audit.dataset.audit import audit_data
from medvlm_r1.audit.dataset.prior_source import find_prior_source
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.importing.registry import find_reader
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.phantom.benchmark import draw_questions, to_sample
from medvlm_r1.phantom.scene import MODALITIES

# The published 900 questions are no part of the package; where they lie beside the checkout, they are tried too.
RELEASE = Path(__file__).resolve().parents[2].parent / "shared/data/medvlm_r1_release"
needs_release = pytest.mark.skipif(not RELEASE.is_dir(), reason="the released questions are not beside the checkout")


def percents(audit, baseline):
    return {m: entry.figures[baseline].percent for m, entry in audit.modalities.items() if baseline in entry.figures}


def test_images_that_the_fit_shows_too_are_counted_without_image_files(tmp_path):
    def sample(number, image, modality="CT", **changes):
        fields = {"question": f"Which, {number}?", "options": ("x", "y"), "answer": "x", "missing": True}
        return Sample(id=f"q{number}", images=(image,), modality=modality, **(fields | changes))

    train = [sample(0, "images/a.png"), sample(1, "images/b.png", options=()), sample(2, "images/c.png", "MRI")]
    test = [sample(n, f"images/{letter}.png") for n, letter in enumerate("abcd", start=5)]
    test += [sample(20, "images/e.png", "MRI"), sample(21, "images/a.png", options=())]
    write_folder(tmp_path / "train", train, info={})
    audit = audit_data(test, find_prior_source(str(tmp_path / "train"), tmp_path, test))
    assert audit.shared_images == audit.record()["fit_on"]["shared_images"] == {"MRI": 0, "CT": 3}
    assert "Questions about an image that train shows too, by path: CT 3 of 4 (75.0 %)." in audit.notes
    assert audit_data(test).shared_images == {"MRI": 0, "CT": 0}


@needs_release
def test_the_released_questions_give_themselves_away(tmp_path):
    find_reader("huatuo")(RELEASE / "MRI_CT_XRAY_300each_dataset.json", out=tmp_path / "data")
    samples = read_folder(tmp_path / "data")
    audit = audit_data(samples, find_prior_source("MRI", tmp_path, samples))
    assert percents(audit, "chance") == pytest.approx({"MRI": 25.0, "CT": 30.25, "X-ray": 26.0})
    assert percents(audit, "option_prior_loo") == pytest.approx({"MRI": 97.2, "CT": 97.2, "X-ray": 90.0}, abs=0.05)
    assert percents(audit, "option_prior_fit") == pytest.approx({"CT": 47.3, "X-ray": 24.4}, abs=2)
    assert {entry.verdict.level for entry in audit.modalities.values()} == {"fail"}
    assert audit.modalities["MRI"].verdict.sentence == (
        "97 % of the MRI questions can be answered without the image (option prior, leave one out; chance 25 %): "
        "an accuracy on this set is no evidence of image use."
    )
    assert not any(test.uneven for entry in audit.modalities.values() for test in entry.order)


def phantom(split, modalities, *, giveaway=False):
    n = {"train": 600, "test": 300}[split]
    return [
        to_sample(question, split, index, giveaway=giveaway)
        for modality in modalities
        for index, question in enumerate(draw_questions(split, modality, n, 0, giveaway=giveaway))
    ]


def test_blind_baselines_stay_near_chance_on_phantomvqa(tmp_path):
    test, train = phantom("test", MODALITIES), phantom("train", ["MRI"])
    write_folder(tmp_path / "train", train, info={})
    for samples, wish in ((test, str(tmp_path / "train")), (test, "MRI"), (train, None)):
        audit = audit_data(samples, find_prior_source(wish, tmp_path, samples) if wish else None)
        chance = percents(audit, "chance")
        for baseline in ("majority", "longest", "option_prior_fit", "option_prior_loo"):
            accuracies = percents(audit, baseline)
            assert accuracies == pytest.approx({name: chance[name] for name in accuracies}, abs=3), baseline
        assert wish is None or "option_prior_fit" in audit.modalities["CT"].figures
        assert {entry.verdict.level for entry in audit.modalities.values()} == {"pass"}


def test_a_planted_giveaway_is_found(tmp_path):
    train = phantom("train", ("MRI",), giveaway=True)
    write_folder(tmp_path / "train", train, info={})
    samples = phantom("test", MODALITIES, giveaway=True)
    audit = audit_data(samples, find_prior_source(str(tmp_path / "train"), tmp_path, samples))
    assert min(percents(audit, "option_prior_loo").values()) > 85
    fitted, chance = percents(audit, "option_prior_fit"), percents(audit, "chance")
    assert fitted["MRI"] > 90
    assert 10 < fitted["CT"] - chance["CT"] < 25
    assert abs(fitted["X-ray"] - chance["X-ray"]) < 6
    assert not any(test.uneven for entry in audit.modalities.values() for test in entry.order)
    assert {entry.verdict.level for entry in audit.modalities.values()} == {"fail"}


def test_the_record_has_its_keys(question):
    samples = [
        *(question("x yy", 1, question_type="Lesion Grading") for _ in range(3)),
        question("x yy", 0, "CT"),
        question("", modality="CT"),
        question("", modality="OCT"),
    ]
    audit = audit_data(samples, find_prior_source("CT", Path("unused"), samples))
    record = json.loads(json.dumps(audit.record()))
    baselines = record["baselines"]
    assert {name: set(by_modality) for name, by_modality in baselines.items()} == {
        **{name: {"MRI", "CT"} for name in ("chance", "majority", "longest", "option_prior_loo")},
        "option_prior_fit": {"MRI"},
    }
    assert baselines["longest"]["MRI"] == {"n": 3, "percent": 100.0, "ci95": [pytest.approx(43.85, abs=0.01), 100]}
    solved = ["q1", "q2", "q3"]
    assert {name: by_modality for name, by_modality in record["solved"].items() if name != "chance"} == {
        "option_prior_loo": {"MRI": solved, "CT": []},
        "longest": {"MRI": solved, "CT": []},
        "majority": {"MRI": solved, "CT": ["q4"]},
        "option_prior_fit": {"MRI": []},
    }
    assert set(record["verdicts"]) == {"MRI", "CT"}
    assert set(record["verdicts"]["MRI"]) == {"level", "baseline", "sentence"}
    assert set(record["thresholds"]) == {"fail", "warn", "not run", "pass"}
    assert (set(record["by_type"]["MRI"]), record["by_type"]["CT"]) == ({"Lesion Grading"}, {})
    assert record["order"]["MRI"][0]["counts"] == {"A": 0, "B": 3}
    assert (record["n"], record["n_open"], record["notice"]) == (4, 2, RESEARCH_USE)
    assert record["fit_on"] == {"name": "CT", "n": 1, "shared": 0, "shared_images": {"MRI": 0, "CT": 0}}
    assert record["notes"][0].endswith("left out: 2.")
    assert "left out for CT" in record["notes"][1]


def test_the_prior_source(question, tmp_path):
    record = audit_data([question("a b"), question("a b")]).record()
    assert "option_prior_fit" not in record["baselines"].keys() | record["solved"].keys()
    assert record["fit_on"] is None
    assert any("--fit-on" in note for note in record["notes"])
    with pytest.raises(UserError, match="no question has options"):
        audit_data([question("")])
    # A modality, in any spelling.
    samples = [question("a b", id="m1"), question("a b", id="c1", modality="CT"), question("", modality="CT")]
    for spelling in ("CT", "ct", "CT(Computed Tomography)"):
        fit = find_prior_source(spelling, Path("unused"), samples)
        assert (fit.name, fit.modality, [item.id for item in fit.items]) == ("CT", "CT", ["c1"])
    # A folder, without the questions of the audited set.
    other = [question("a b", images=samples[0].images), question("b a", id="x"), question("c d", id="y", modality="CT")]
    write_folder(tmp_path / "train", [*other, question("")], info={})
    fit = find_prior_source(str(tmp_path / "train"), tmp_path, samples)
    assert (fit.name, fit.modality, fit.shared, [item.id for item in fit.items]) == ("train", None, 1, ["x", "y"])
    assert audit_data(samples, fit).notes[-2].endswith("not counted: 1.")


def test_a_fit_on_nothing_is_refused(question, tmp_path):
    samples = [question("a b", modality="CT"), question("", modality="OCT")]
    for name, rows in (("here", samples), ("same", samples[:1]), ("open", [question("")])):
        write_folder(tmp_path / name, rows, info={})
    for wish, error, words in (
        ("CTT", UsageError, "did you mean 'CT'"),
        ("X-ray", UsageError, "neither a data folder nor a modality"),
        (str(tmp_path / "here"), UsageError, "audited folder itself"),
        (str(tmp_path / "open"), UserError, "all open"),
        (str(tmp_path / "same"), UserError, "all in the audited set"),
        ("OCT", UserError, "all OCT questions"),
    ):
        with pytest.raises(error, match=words):
            find_prior_source(wish, tmp_path / "here", samples)
