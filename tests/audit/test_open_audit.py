"""The audit of open questions: answers are compared by their meaning, and probes of options are not run."""

import re

import pytest
from PIL import Image

from audited import sample
from medvlm_r1.audit.probes.cue import HINT, TEXT
from medvlm_r1.audit.runner import audit_model
from medvlm_r1.audit.store import AuditStore
from medvlm_r1.audit.variant import AuditBackend, means, parsed_answer
from medvlm_r1.data.folder import write_folder
from medvlm_r1.errors import UserError
from medvlm_r1.report.html import render_model_audit

ORGANS = ("left kidney", "liver", "spleen", "stomach")
COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))


@pytest.fixture
def folder(tmp_path):
    """Forty open questions, whose answers the color of the image gives, and one question with options."""
    (tmp_path / "data/images").mkdir(parents=True)
    for name, color in enumerate(COLORS):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"data/images/{name}.png")
    samples = [
        sample(n, k=0, answer=ORGANS[n % 4], images=(f"images/{n % 4}.png",), question="Which organ is marked?")
        for n in range(40)
    ]
    write_folder(tmp_path / "data", [*samples, sample(40, images=("images/0.png",))], info={"name": "made"})
    return tmp_path / "data"


class Reader(AuditBackend):
    """Names the organ by the color of the image or, if it is blind, by the question; adds an article and a period.

    It follows a reasoning that was begun, and guesses without one.
    """

    def __init__(self, *, blind=False, led=False):
        self.blind, self.led = blind, led

    def answer(self, variants):
        return [self.answer_one(variant) for variant in variants]

    def answer_one(self, variant):
        hint = re.search(re.escape(HINT).replace(r"\{letter\}", "(.+)") + "$", variant.sample.question)
        color = variant.images[0].getpixel((60, 44)) if variant.images else None
        organ = ORGANS[COLORS.index(color)] if color in COLORS else "liver"
        if self.blind:
            organ = variant.sample.answer
        if hint and self.led:
            organ = hint[1]
        begun = re.search(r"shows the (.+?)\.", variant.prefix)
        text = variant.prefix or f"<think>The image shows the {organ}. Nothing else is marked.</think><answer>"
        if variant.prefix and not self.blind:
            organ = begun[1] if begun else "liver"
        if not text.endswith("<answer>"):
            text = f"{text}</think><answer>"
        return parsed_answer(variant, f"{text}The {organ}.</answer>", n_tokens=9, truncated=False)


def test_open_answers_are_compared_by_their_meaning():
    question = sample(k=0, answer="left kidney", question="Which organ is marked?")
    assert means(question, "The left kidney.", "left kidney")
    assert not means(question, "right kidney", "left kidney")
    assert not means(question, None, "left kidney")
    assert not means(sample(), "o0 and o1", "o0")


def test_a_model_that_looks_one_that_does_not_and_one_that_is_led(folder, tmp_path):
    def audit(name, backend):
        record = audit_model("m", folder, tmp_path / name, backend=backend, open_questions=True)
        return record, record["probes"]

    record, probes = audit("looks", Reader())
    assert (record["n"], record["open"], record["n_left_out"]) == (40, True, 1)
    assert record["verdicts"]["looks"] == record["verdicts"]["reasoning"] == "pass"
    assert record["verdicts"]["order"] == record["verdicts"]["defers"] == "not run"
    assert all("needs questions with options" in probes[name]["sentence"] for name in ("options", "confidence"))
    assert probes["image"]["measures"]["accuracy_real"]["value"] == 1
    assert "chance" not in probes["image"]["measures"]
    assert probes["reasoning"]["measures"]["same_with_all"]["value"] == 1
    assert probes["reasoning"]["measures"]["sway_text"]["value"] == 0

    blind, probes = audit("blind", Reader(blind=True))
    assert (blind["verdicts"]["looks"], probes["image"]["measures"]["image_sensitivity"]["value"]) == ("fail", 0)

    led, probes = audit("led", Reader(led=True))
    assert (led["verdicts"]["reasoning"], probes["reasoning"]["measures"]["sway_text"]["value"]) == ("fail", 1)
    with AuditStore(tmp_path / "led") as store:
        hinted = [(item.sample, item.answers[TEXT].note["cue"]) for item in store.items.values()]
    assert {hint for _, hint in hinted} <= set(ORGANS)
    assert not any(means(question, hint, question.answer) for question, hint in hinted)
    page = render_model_audit(tmp_path / "led").read_text()
    assert "Questions with options left out: 1." in page
    assert "The left kidney." in page
    assert "None)" not in page


def test_one_kind_of_question_at_a_time(folder, tmp_path, data_dir):
    record = audit_model("m", folder, tmp_path / "closed", backend=Reader())
    assert (record["n"], record["open"], record["n_left_out"]) == (1, False, 40)
    with pytest.raises(UserError, match="no question is open; leave out --open"):
        audit_model("m", data_dir, tmp_path / "none", backend=Reader(), open_questions=True)


def test_a_local_model_continues_open_answers(folder, tmp_path, tiny_policy_dir):
    options = {"open_questions": True, "limit": 2, "max_new_tokens": 4}
    record = audit_model(str(tiny_policy_dir), folder, tmp_path / "run", probes=["image", "reasoning"], **options)
    # The original, four images and two hints; a model of random weights gives no reasoning to cut.
    assert (record["n"], record["answers"]["variants"]) == (2, 2 * 7)
