"""One case as a file: self-contained, escaped, and without anything that names a patient."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import Case, CaseLook, CaseReply, render_answer, render_case, render_looks, shares

REPLY = CaseReply(
    reasoning="First this.\nThen <b>that</b>.",
    answer="B) knee",
    raw=None,
    shares=shares(("head", "knee"), "B", {"head": 0.002, "knee": 0.998}),
)
CASE = Case(
    question="Which part of the body & why?",
    image=picture_uri(Image.new("RGB", (8, 8))),
    image_note="DICOM, 8 x 8.",
    model="phantom-base",
    reply=REPLY,
)
LOOK = CaseLook(
    title="Blank image",
    how="Nothing is shown.",
    image=picture_uri(Image.new("RGB", (8, 8), "grey")),
    reply=REPLY,
    verdict="The answer does not change without the image.",
    tone="fail",
)


def test_the_file_holds_all_of_the_case_and_the_notice() -> None:
    page = render_case(replace(CASE, looks=(LOOK,)))
    for text in ("Which part of the body &amp; why?", "DICOM, 8 x 8.", "phantom-base", "B) knee", LOOK.verdict):
        assert text in page
    assert "Then &lt;b&gt;that&lt;/b&gt;." in page
    assert page.count(RESEARCH_USE) >= 2
    assert "Second look" in page


def test_the_file_refers_to_nothing_outside_itself() -> None:
    page = render_case(replace(CASE, looks=(LOOK,)))
    sources = re.findall(r"""(?:\ssrc=|\shref=|url\()["']?([^"')\s>]+)""", page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<script" not in page
    assert "//" not in re.sub(r"data:[^\"]+", "", page)


def test_a_case_without_second_look_has_no_heading_for_it() -> None:
    assert "Second look" not in render_case(CASE)
    assert render_looks(CASE).strip() == ""


def test_percentages_are_not_rounded_to_certainty() -> None:
    page = render_answer(CASE)
    assert "&lt;1&nbsp;%" in page
    assert "&gt;99&nbsp;%" in page
    assert "100&nbsp;%" not in page


@pytest.mark.parametrize(
    ("reply", "live", "shown", "hidden"),
    [
        (CaseReply(reasoning="So far", answer=None, raw=None), True, "caret", "No answer"),
        (CaseReply(reasoning="", answer=None, raw=None), False, "No answer in the required format", "caret"),
        (CaseReply(reasoning=None, answer=None, raw="free text"), False, "Full text", "Reasoning"),
        (CaseReply(reasoning="r", answer="a", raw=None, note="cut off"), False, "Cut off.", "Full text"),
        (replace(REPLY, shares=shares(("x", "y"), "A", None)), False, "reports no option probabilities", "&nbsp;%"),
    ],
)
def test_each_state_of_a_reply_is_shown(reply: CaseReply, live: bool, shown: str, hidden: str) -> None:
    page = render_answer(replace(CASE, reply=reply, live=live))
    assert shown in page
    assert hidden not in page
