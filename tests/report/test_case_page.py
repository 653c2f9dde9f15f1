"""One case as a file: self-contained, escaped, and without anything that names a patient."""

import re
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.report.case import Case, CaseCheck, CaseReply, render_answer, render_case, render_checks
from medvlm_r1.report.page import picture_uri

REPLY = CaseReply(
    reasoning="First this.\nThen <b>that</b>.",
    letter="B",
    text="knee",
    options=("head", "knee"),
    confidence={"head": 0.002, "knee": 0.998},
)
CASE = Case(
    question="Which part of the body & why?",
    image=picture_uri(Image.new("RGB", (8, 8))),
    image_note="DICOM, 8 x 8.",
    model="phantom-base",
    reply=REPLY,
)
CHECK = CaseCheck(
    title="Blank image",
    how="Nothing is shown.",
    image=picture_uri(Image.new("RGB", (8, 8), "grey")),
    reply=REPLY,
    verdict="The answer does not change without the image.",
    tone="fail",
)


def test_the_file_holds_all_of_the_case_and_refers_to_nothing_else():
    page = render_case(replace(CASE, checks=(CHECK,)))
    for text in (
        "Which part of the body &amp; why?",
        "Then &lt;b&gt;that&lt;/b&gt;.",
        "DICOM, 8 x 8.",
        "phantom-base",
        "B) knee",
        "Consistency checks",
        CHECK.verdict,
    ):
        assert text in page
    assert page.count(RESEARCH_USE) >= 2
    sources = re.findall(r"""(?:\ssrc=|\shref=|url\()["']?([^"')\s>]+)""", page)
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64"] * 2
    assert "<script" not in page
    assert "//" not in re.sub(r"data:[^\"]+", "", page)
    assert "Consistency checks" not in render_case(CASE)
    assert render_checks(CASE).strip() == ""


@pytest.mark.parametrize(
    ("reply", "live", "present", "absent"),
    [
        # Percentages are not rounded to certainty.
        (REPLY, False, ["&lt;1&nbsp;%", "&gt;99&nbsp;%", 'knee</bdi><span class="unseen"> (chosen)'], "100&nbsp;%"),
        (CaseReply(reasoning="So far"), True, ["caret"], "No answer"),
        (CaseReply(reasoning=""), False, ["No answer in the required format"], "caret"),
        (CaseReply(raw="free text"), False, ["Full text"], "Reasoning"),
        (CaseReply(reasoning="r", text="a", note="cut off"), False, ["Cut off."], "Full text"),
        (replace(REPLY, confidence=None), False, ["no option probabilities"], "&nbsp;%"),
    ],
)
def test_each_state_of_a_reply(reply, live, present, absent):
    page = render_answer(replace(CASE, reply=reply, live=live))
    assert [text for text in present if text not in page] == []
    assert absent not in page
