"""Scoring against a hand-computed case, and properties that hold for any answers."""

import pytest

from medvlm_r1.data.sample import Sample
from medvlm_r1.evaluation.score import grade, order_modalities, score, share
from medvlm_r1.evaluation.statistics import wilson
from medvlm_r1.models.generate import Generation


def sample(n, modality="MRI", **changes):
    fields = {"id": f"q{n}", "images": (), "question": "Which?", "options": ("liver", "kidney"), "answer": "kidney"}
    return Sample(**(fields | {"modality": modality} | changes))


def generated(text, *, truncated=False):
    return Generation(text=text, n_tokens=len(text.split()), truncated=truncated)


RIGHT = "<think>one two three</think><answer>B</answer>"
WRONG = "<think>one</think><answer>A</answer>"


def test_figures_by_hand():
    samples = [
        sample(0, question_type="Anatomy Identification", subject="p0"),
        sample(1, question_type="Anatomy Identification", subject="p0"),
        sample(2, question_type="Lesion Grading", subject="p1"),
        sample(3, subject="p1"),
        sample(4, "CT", options=("a1", "b1", "c1", "d1"), answer="c1"),
        sample(5, "CT"),
    ]
    texts = [RIGHT, WRONG, "The answer is B", "<answer>B)</answer>", "<think>it goes on and", RIGHT]
    generations = [generated(text, truncated=text.endswith("and")) for text in texts]
    figures = score(samples, generations)

    assert figures["n"] == 6
    assert list(figures["accuracy"]) == ["MRI", "CT", "mean"]
    assert [figures["accuracy"]["MRI"][key] for key in ("n", "correct", "percent")] == [4, 1, 25.0]
    assert figures["accuracy"]["CT"]["percent"] == 50.0
    assert figures["accuracy"]["mean"] == 37.5
    assert figures["lenient"]["MRI"]["correct"] == 3
    assert figures["lenient"]["mean"] == (75.0 + 50.0) / 2
    assert figures["by_type"]["MRI"]["Lesion Grading"] == share([False])
    anatomy = figures["by_type"]["MRI"]["Anatomy Identification"]
    assert (anatomy["n"], anatomy["correct"], figures["by_type"]["CT"]) == (2, 1, {})
    # Both are about one subject, and worth one item.
    assert anatomy["ci95"] == pytest.approx([100 * end for end in wilson(0.5, 1)])
    assert (figures["well_formed"]["n"], figures["well_formed"]["correct"]) == (6, 3)
    assert figures["no_answer"]["count"] == 3
    assert figures["no_answer_lenient"]["count"] == 1
    assert (figures["cut_off"]["n"], figures["cut_off"]["count"]) == (6, 1)
    assert figures["mean_reasoning_words"] == pytest.approx((3 + 1 + 3) / 3)
    assert figures["mean_completion_tokens"] == pytest.approx(sum(len(text.split()) for text in texts) / 6)
    assert figures["chance"] == {"MRI": {"n": 4, "percent": 50.0}, "CT": {"n": 2, "percent": 37.5}, "mean": 43.75}
    # MRI: 1 of 4 right. Deviations .75 and -.25 three times: SE_CLT^2 = .75 / 3 / 4; pairs in a cluster add
    # 2 * (.75 * -.25) + 2 * (-.25 * -.25) = -.25, over 16.
    assert figures["accuracy"]["MRI"]["clustered_se"] == pytest.approx(100 * (0.75 / 12 - 0.25 / 16) ** 0.5)


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "formed"),
    [
        ("B", True, True, True),
        (" B\n", True, True, True),
        ("A", False, False, True),
        ("b", False, True, False),
        ("B.", False, True, False),
        ("kidney", False, True, False),
        (RIGHT, True, True, False),
        ("", False, False, False),
    ],
)
def test_answer_only_is_the_letter_alone(text, strict, lenient, formed):
    graded = grade(sample(0), generated(text), "answer-only")
    assert (graded.correct, graded.lenient_correct, graded.response.well_formed) == (strict, lenient, formed)


def test_a_letter_that_is_not_offered_is_wrong():
    graded = grade(sample(0), generated("<answer>D</answer>"))
    assert (graded.correct, graded.answered) == (False, True)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>x</think><answer>Left  Lung.</answer>", True),
        ("<think>x</think><answer>the left lung</answer>", True),
        ("<think>x</think><answer>the right lung</answer>", False),
        ("<think>x</think><answer>the left lung base</answer>", False),
        ("left lung", False),
    ],
)
def test_open_questions_are_right_with_the_full_score(text, right):
    graded = grade(sample(0, options=(), answer="left lung"), generated(text))
    assert graded.correct is graded.lenient_correct is right


def test_open_questions_are_counted_apart():
    closed = [sample(0), sample(1), sample(2, options=("a1", "b1", "c1", "d1"), answer="b1")]
    texts = [RIGHT, WRONG, "<think>x y</think><answer>B</answer>"]
    unlettered = [
        sample(3, options=(), answer="left lung", question_type="Lesion Grading"),
        sample(4, options=()),
        sample(5, "OCT", options=()),
    ]
    replies = ["<think>a b c d</think><answer>Left lung</answer>", "It goes on", "<answer>no idea</answer>"]
    alone = score(closed, [generated(text) for text in texts])
    both = score(
        [*closed, *unlettered], [generated(text, truncated=text == "It goes on") for text in [*texts, *replies]]
    )
    # Two of three are right, not two of six; a modality with open questions alone has no row.
    assert both["accuracy"]["MRI"]["percent"] == pytest.approx(100 * 2 / 3)
    assert both["chance"] == {"MRI": {"n": 3, "percent": pytest.approx(125 / 3)}, "mean": pytest.approx(125 / 3)}
    figures = ("accuracy", "accuracy_mean_ci95", "lenient", "lenient_mean_ci95", "by_type", "chance")
    for name in (*figures, "well_formed", "no_answer", "no_answer_lenient"):
        assert both[name] == alone[name], name
    assert (both["n"], both["open"]["n"], both["open"]["correct"]) == (6, 3, 1)
    assert (both["open"]["score"], both["open"]["by_rule"]) == (
        pytest.approx(100 / 3),
        {"exact": {"n": 1, "score": 100}, "no answer": {"n": 1, "score": 0}, "words": {"n": 1, "score": 0}},
    )
    none = {"n": 0, "correct": 0, "percent": None, "ci95": None, "score": None, "score_ci95": None, "by_rule": {}}
    assert alone["open"] == none
    # Half of the words are right: the mean score counts it, the share of full scores does not.
    half = score([sample(0, options=(), answer="mass")], [generated("<answer>a large mass</answer>")])["open"]
    assert (half["score"], half["correct"], half["by_rule"]) == (50, 0, {"words": {"n": 1, "score": 50}})
    assert half["score_ci95"] == pytest.approx([100 * end for end in wilson(0.5, 1)])
    # How long they are and whether they end does not depend on options.
    assert (both["cut_off"]["n"], both["cut_off"]["count"]) == (6, 1)
    assert both["mean_reasoning_words"] == pytest.approx((3 + 1 + 2 + 4) / 4)


def test_input_at_the_edges():
    # Open questions alone have no accuracy.
    figures = score([sample(n, options=()) for n in range(3)], [generated(RIGHT)] * 3)
    assert figures["accuracy"] == figures["lenient"] == figures["chance"] == {"mean": None}
    assert figures["accuracy_mean_ci95"] is figures["lenient_mean_ci95"] is figures["well_formed"]["percent"] is None
    assert (figures["n"], figures["open"]["n"], figures["by_type"]) == (3, 3, {})
    assert score([sample(0)], [generated("B")])["mean_reasoning_words"] is None
    with pytest.raises(ValueError, match="zip"):
        score([sample(0)], [])
    with pytest.raises(ValueError, match="at least one sample"):
        score([], [])
    names = ["Ultrasound", "X-ray", "OCT", "MRI", "CT", "MRI"]
    assert order_modalities(names) == ["MRI", "CT", "X-ray", "OCT", "Ultrasound"]
