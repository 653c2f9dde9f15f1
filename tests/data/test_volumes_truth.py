"""Claims about slices of volumes are compared with the masks: a model that reads them, and one that swaps the sides."""

import re
from dataclasses import replace

import pytest
from studies import write_study
from test_import_volumes import areas, label_picture

from audited import sample
from medvlm_r1.audit.claims import Claim, checked_claims, record_of
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.audit.variant import AuditBackend, parsed_answer
from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.volumes.importer import Settings, import_volumes

TRUTH = {
    "modality": "CT",
    "region": "abdomen",
    "plane": "axial",
    "technique": "soft tissue window",
    "organs": [
        {"name": "kidney", "side": "left", "area_mm2": 90.0},
        {"name": "inferior vena cava", "side": None, "area_mm2": 9.0},
    ],
    "unclear": ["right adrenal gland"],
    "absent": ["liver", "lung"],
    "findings": [],
}


def claims(text, **changes):
    record = record_of(sample(truth={"asks": "organ", "images": [TRUTH | changes]}))
    return {str(claim): true for claim, true in checked_claims(text, ("o0", "o1"), record).items()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("An axial CT of the abdomen.", {"plane: axial": True, "modality: CT": True, "region: abdomen": True}),
        ("A coronal MRI.", {"plane: coronal": False, "modality: MRI": False}),
        ("The left kidney is seen.", {"structure: left kidney": True}),
        ("The right kidney is seen.", {"structure: right kidney": False}),
        ("Both kidneys are seen.", {"structure: kidney": True}),
        ("The inferior vena cava is wide.", {"structure: inferior vena cava": True}),
        ("Neither liver nor lungs are shown.", {"structure: not liver": True, "structure: not lung": True}),
        ("The liver is bright.", {"structure: liver": False}),
        ("The right adrenal gland is thin.", {"structure: right adrenal gland": None}),
        ("There is a lesion on the left.", {"finding: any": False, "side: left": None}),
        ("There is no lesion.", {"finding: none": True}),
        ("It could be the liver.", {}),
    ],
)
def test_claims_about_a_slice(text, wanted):
    assert claims(text) == wanted


def test_findings_without_a_mask_are_unknown():
    unknown = {name: value for name, value in TRUTH.items() if name != "findings"}
    record = record_of(sample(truth={"asks": "organ", "images": [unknown]}))
    assert record.holds(Claim("finding", "none")) is None
    assert claims("There is a mass.", findings=[{"name": "tumor"}]) == {"finding: mass": None}
    assert record_of(sample(truth={"images": [{**TRUTH, "organs": 3}]})) is None


class Reader(AuditBackend):
    """Names what the record of the slice has; `swapped` exchanges the sides."""

    def __init__(self, *, swapped=False):
        self.swapped = swapped

    def answer(self, variants):
        return [self.answer_one(variant) for variant in variants]

    def answer_one(self, variant):
        [truth] = variant.sample.truth["images"]
        names = [" ".join(filter(None, (organ["side"], organ["name"]))) for organ in truth["organs"]]
        names = [name for name in names if name.startswith(("left", "right"))] or names
        if self.swapped:
            names = [re.sub("^(left|right)", lambda side: {"left": "right"}.get(side[1], "left"), n) for n in names]
        text = f"<think>{' '.join(f'The {name} is seen.' for name in names)}</think><answer>A</answer>"
        return parsed_answer(variant, text, n_tokens=9, truncated=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Questions about sagittal slices, which show one side. Each counts as a patient."""
    root = tmp_path_factory.mktemp("volumes")
    write_study(root / "source/p1")
    settings = Settings(modality="CT", planes=("sagittal",), per_volume=150)
    samples, _ = import_volumes(root / "source", root / "data", settings, lambda *_: None)
    alone = [replace(sample, subject=sample.id, record={}) for sample in samples]
    write_folder(root / "data", alone, info={"name": "made"})
    return root / "data"


def test_a_model_that_reads_the_masks_passes_and_one_with_swapped_sides_fails(folder, tmp_path):
    verdicts, sentences = {}, {}
    for swapped in (False, True):
        run = tmp_path / str(swapped)
        record = audit_model("m", folder, run, backend=Reader(swapped=swapped), probes=["truth"])
        verdicts[swapped], sentences[swapped] = record["verdicts"]["truth"], record["probes"]["truth"]["sentence"]
    assert verdicts == {False: "pass", True: "fail"}, sentences


def test_the_record_agrees_with_the_masks(folder):
    """Every clear, unclear and absent structure, from the labels of the slice."""
    checked = 0
    for item in read_folder(folder)[:40]:
        [truth] = item.truth["images"]
        plane, index = re.match(r"images/p\d+\.(\w+)\.(\d+)\.", item.images[0]).groups()
        present = areas(label_picture(plane, int(index))[0])
        names = {name for name, _ in present}
        assert not names & set(truth["absent"])
        assert {organ["name"] for organ in truth["organs"]} <= names
        assert all(any(name in text for name in names) for text in truth["unclear"])
        checked += len(truth["absent"])
    assert checked > 40
