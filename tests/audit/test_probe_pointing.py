"""The pointing probe against counts worked out by hand, and what must not change them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from audited import UNREADABLE, check_verdict, numbers, probe_input, sample
from benchmarks import pointing as benchmark
from medvlm_r1.audit.probes.pointing import (
    ELSEWHERE,
    HIDDEN,
    LETTER_ELSEWHERE,
    LETTER_HIDDEN,
    MIRRORED,
    PointingProbe,
    equal_regions,
    hide,
)
from medvlm_r1.audit.variant import REAL, AuditedItem, parsed_answer, scored_choice
from medvlm_r1.data.sample import Box
from medvlm_r1.rewards.box_iou import iou

probe = PointingProbe()
LEFT, RIGHT = "<box>100,200,300,400</box>", "<box>700,200,900,400</box>"
TRUE = Box(label="mass", image=0, x1=10, y1=20, x2=30, y2=40)
BETWEEN = {"mass": "There is a mass.", "cyst": "There is a cyst.", "lesion": "There is a lesion."}


def said(letter="A", boxes=LEFT, named="mass"):
    return f"<think>{BETWEEN[named]}</think>{boxes}<answer>{letter}</answer>"


def question(number=0, *, seed=0, template="medvlm-r1-box", boxes=(TRUE,), **changes):
    made = probe_input(sample(number, boxes=boxes, **changes), size=(100, 100), seed=seed)
    return replace(made, template=template)


def pointed(number=0, *, real=None, hidden="B", elsewhere="A", mirrored=RIGHT, seed=0, scores=(0.4, 0.8), **changes):
    """An item answered "o0" with a box, and with these letters or boxes in its variants; None is unparsed."""
    of = question(number, seed=seed, **changes)
    first = of.variant(REAL)
    answers = {REAL: parsed_answer(first, real or said(), n_tokens=9, truncated=False, template=of.template)}
    texts = {
        HIDDEN: said(hidden, "") if hidden else UNREADABLE,
        ELSEWHERE: said(elsewhere) if elsewhere else UNREADABLE,
    }
    texts[MIRRORED] = said(boxes=mirrored)
    shares = dict(zip((LETTER_HIDDEN, LETTER_ELSEWHERE), scores, strict=True))
    for variant in probe.then(of, answers[REAL]):
        if variant.letter_only:
            rest = (1 - shares[variant.name]) / 3
            answers[variant.name] = scored_choice(variant, [shares[variant.name], rest, rest, rest])
        else:
            answers[variant.name] = parsed_answer(variant, texts[variant.name], n_tokens=9, truncated=False)
    return AuditedItem(sample=of.sample, answers=answers)


def variants(text, **changes):
    of = question(**changes)
    return {v.name: v for v in probe.then(of, parsed_answer(of.variant(REAL), text, n_tokens=9, truncated=False))}


def test_the_variants_take_two_answers():
    even, odd = variants(said()), variants(said(), seed=1)
    assert list(even) == [HIDDEN, ELSEWHERE, LETTER_HIDDEN, LETTER_ELSEWHERE]
    assert list(odd) == [HIDDEN, MIRRORED]
    assert even[HIDDEN].note["boxes"] == [(0.1, 0.2, 0.3, 0.4)] == [edges for _, edges in even[HIDDEN].note["truth"]]
    assert odd[MIRRORED].note["boxes"] == [pytest.approx((0.7, 0.2, 0.9, 0.4))]
    assert (even[LETTER_HIDDEN].prefix, even[LETTER_HIDDEN].letter_only) == ("<think></think><answer>", True)
    # A box on the midline cannot move.
    assert ELSEWHERE in variants(said(boxes="<box>300,300,600,600</box>"), seed=1)
    # There is no equal region elsewhere.
    assert list(variants(said(boxes="<box>0,0,1000,800</box>"))) == [HIDDEN]
    assert variants(said(), boxes=())[HIDDEN].note["truth"] is None
    assert variants(said(), boxes=(), truth={"images": [{"findings": []}]})[HIDDEN].note["truth"] == []
    for text in (
        said(boxes=""),
        said(boxes="<box>3,2,1,4</box>"),
        said("Z"),
        f"<think>{LEFT}</think><answer>A</answer>",
    ):
        assert variants(text) == {}
    assert variants(said(), template="medvlm-r1") == variants(said(), truth={"asks": "plane"}) == {}
    assert variants(said(), images=("x.png", "y.png")) == {}
    assert HIDDEN in variants(said(), truth={"asks": "side"})


def test_a_hidden_box_has_the_color_around_it():
    image = Image.new("RGB", (20, 20), (10, 20, 30))
    image.paste((250, 250, 250), (5, 5, 10, 10))
    assert hide(image, [(0.25, 0.25, 0.5, 0.5)]).getcolors() == [(400, (10, 20, 30))]
    image.paste((30, 20, 10), (10, 0, 20, 20))
    # Around the box are 7 x 7 - 5 x 5 pixels, 7 of them in the right half.
    mean = np.average([(10, 20, 30), (30, 20, 10)], axis=0, weights=[17, 7]).round().astype(int)
    assert hide(image, [(0.25, 0.25, 0.5, 0.5)]).getpixel((7, 7)) == tuple(mean)
    # Nothing is around the whole image.
    [(_, color)] = hide(image, [(0, 0, 1, 1)]).getcolors()
    assert color == tuple(np.asarray(image).mean(axis=(0, 1)).round())


box_edges = st.tuples(*[st.floats(0, 0.9)] * 2, *[st.floats(0.01, 1)] * 2).map(
    lambda b: (b[0], b[1], min(1, b[0] + b[2]), min(1, b[1] + b[3]))
)


@given(st.lists(box_edges, min_size=1, max_size=3))
def test_equal_regions_are_elsewhere_and_of_the_same_size(boxes):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
    regions = equal_regions(image, boxes, [(0, 0, 0.2, 0.2)])
    assert len(regions) in (0, len(boxes))
    for region, box in zip(regions, boxes, strict=False):
        assert (region[2] - region[0], region[3] - region[1]) == pytest.approx((box[2] - box[0], box[3] - box[1]))
        assert -1e-9 <= min(region) <= max(region) <= 1 + 1e-9
        others = [*boxes, (0, 0, 0.2, 0.2), *(other for other in regions if other is not region)]
        assert not iou([region], others).any()


def test_an_equal_region_has_the_same_contrast():
    pixels = np.zeros((90, 90, 3), np.uint8)
    pixels[:30, :30:2] = pixels[60:, 60::2] = 200
    [region] = equal_regions(Image.fromarray(pixels), [(0, 0, 1 / 3, 1 / 3)], [])
    assert region == pytest.approx((2 / 3, 2 / 3, 1, 1))


def test_measures_by_hand():
    two = LEFT + RIGHT
    items = [
        pointed(0),
        pointed(1, hidden="A", scores=(0.8, 0.8)),
        pointed(2, hidden="A", elsewhere="B", real=said(named="lesion")),
        pointed(3, hidden=None),
        # The second box is on nothing; the cyst that is named is elsewhere.
        pointed(4, real=said(boxes=two), elsewhere=None),
        pointed(5, real=said(named="cyst"), boxes=(TRUE, replace(TRUE, label="cyst", x1=60, x2=70))),
        pointed(6, seed=1),
        pointed(7, seed=1, mirrored=LEFT),
        pointed(8, seed=1, mirrored="", boxes=()),
        pointed(9, real=said(boxes="")),
    ]
    result = check_verdict(probe, items)
    expected = {
        "pointed": (9 / 10, 10),
        # Items 0, 1, 3, 4, 5, 6 and 7 name a label; 4 has one of two boxes right, 5 none.
        "held": ((1 + 1 + 1 + 0.5 + 0 + 1 + 1) / 7, 7),
        # Items 0, 1, 2 and 5 have both: changed 1, 0, 0, 1 with the box hidden, and item 2 with a region elsewhere.
        "evidence": ((2 - 1) / 4, 4),
        # All but item 3.
        "changed_hidden": (6 / 8, 8),
        "changed_elsewhere": (1 / 5, 5),
        "probability_drop": ((0.4 + 0 + 0.4 + 0.4) / 4, 4),
        "moved": (1 / 3, 3),
        "unparsed": (2 / 15, 15),
    }
    assert list(expected.values()) == numbers(result, *expected)
    assert result.items == {
        "box not on what the reasoning names": ["q0004", "q0005"],
        "same answer with the box hidden": ["q0001", "q0002"],
        "another answer with a region elsewhere hidden": ["q0002"],
        "box does not follow the mirrored image": ["q0007", "q0008"],
        "an answer was not parsed": ["q0003", "q0004"],
    }
    assert result.verdict == "not run"


def many(n=80, **changes):
    return [pointed(number, seed=number, **changes) for number in range(n)]


@pytest.mark.parametrize(
    ("items", "verdict", "parts", "words"),
    [
        (many(), "pass", ("pass", "pass", "pass"), "Its boxes show its evidence: 100 % of the answers change"),
        (many(hidden="A"), "fail", ("fail", "pass", "pass"), "Its boxes do not show its evidence: 0 % of"),
        # Any hidden region changes the answer.
        (
            many(elsewhere="B"),
            "fail",
            ("fail", "pass", "pass"),
            "100 % with an equal region elsewhere. The difference is 0 points (",
        ),
        (many(mirrored=LEFT), "fail", ("pass", "pass", "fail"), "0 % (0 to 9) of the boxes off the midline follow"),
        (
            many(real=said(boxes=RIGHT), mirrored=LEFT),
            "fail",
            ("pass", "fail", "pass"),
            "0 % (0 to 5) of the boxes are",
        ),
        (
            [pointed(n, seed=n, hidden="A" if n % 8 else "B") for n in range(80)],
            "warn",
            ("warn", "pass", "pass"),
            "Its boxes may not show its evidence: ",
        ),
        (many(boxes=()), "pass", ("pass", "not run", "pass"), "The true boxes are unknown."),
        (many(real=said(named="lesion")), "pass", ("pass", "not run", "pass"), "Only 0 answers measure which of"),
        # Central boxes: the mirrored image measures nothing.
        (many(real=said(boxes="<box>450,200,550,300</box>")), "fail", ("pass", "fail", "not run"), "Only 0 answers"),
        (many(50), "not run", ("not run", "pass", "not run"), "25 answers with a box and room for an equal region"),
        (many(50, real=said(boxes=RIGHT)), "fail", ("not run", "fail", "not run"), "Its boxes do not show"),
        (many(hidden=None), "warn", ("warn", "pass", "pass"), "67 % of 120 answers were not parsed"),
    ],
)
def test_verdicts(items, verdict, parts, words):
    result = check_verdict(probe, items, verdict, words)
    assert tuple(result.detail["parts"][name] for name in ("evidence", "held", "moved")) == parts


def test_without_boxes_the_reason_is_named():
    asked, other = (pointed(real=said(boxes=""), template=name) for name in ("medvlm-r1-box", "medvlm-r1"))
    assert probe.measure([asked]).sentence == "No answer has a box to check."
    assert probe.measure([other]).sentence == "The prompt template does not ask for boxes."
    assert probe.measure([asked]).verdict == probe.measure([other]).verdict == "not run"


def test_known_models_differ_in_what_is_expected(monkeypatch):
    """Few items; `python -m benchmarks.pointing` compares the verdicts."""
    monkeypatch.setattr(benchmark, "DEFAULT_N", {"test": 12})
    results = benchmark.bench_pointing(items=45, seeds=1)
    measures = {name: model["measures"][0] for name, model in results["models"].items()}
    value = {name: {key: measure["value"] for key, measure in row.items()} for name, row in measures.items()}
    assert [value[name]["evidence"] > 0.4 for name in benchmark.KNOWN] == [False, False, False, True]
    assert [value[name]["held"] for name in ("p3", "p4")] == [value[name]["moved"] for name in ("p3", "p4")] == [1, 1]
    assert max(value["p1"]["held"], value["p1"]["moved"], value["p2"]["held"]) < 0.4
    assert "moved" not in value["p2"]
    assert any("model p4, seed 0: points is 'not run', wanted 'pass'" in line for line in results["wrong"])
    assert benchmark.pointing_lines(results)[-1] == "NOT as expected"
