"""Scores of open answers: rules by hand, attacks with their wanted score, and properties of any text."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.errors import UserError
from medvlm_r1.rewards.open_answer import open_answer
from medvlm_r1.rewards.open_questions.rules import Item, Rule, list_f1, score_open, split_items, word_overlap
from medvlm_r1.rewards.open_questions.words import normalize, quantity, read_synonyms
from medvlm_r1.rewards.registry import checked

TABLE = read_synonyms()
WHAT, WHERE, SIDE = "What abnormality is seen?", "Where is the lesion?", "Which side is the pleural effusion on?"
SIZE, COUNT, THERE = "How large is the mass?", "How many lesions are there?", "Is there a pneumothorax?"
CHOICE, LESION = "Is it a CT or an MRI?", "What lung lesion is this?"
N = 1_000_000


def scored(question, reference, answer, synonyms=TABLE):
    result = score_open(answer, reference, question, synonyms)
    return result.value, result.rule.value


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Left lungs.", "the left lung ."),
        ("Ménière’s disease isn't seen", "meniere disease is not seen"),
        ("masses opacities sinuses pancreas diagnosis", "mass opacity sinus pancrea diagnosis"),
        ("twenty five mm, 2.50cm; 1,250 ml and 2 litres", "25mm , 25mm ; 1250ml and 2000ml"),
        ("2 x 3 cm", "20mm x 30mm"),
        ("2x3cm or -5 HU, L4-5, 3-4 m", "20mm x 30mm or -5 hu , l4 5 , 3000mm 4000mm"),
        ("Computed tomography scan, plain films", "ct , xray"),
        ("T2-weighted ½ 5th", "t2 1 2 5th"),
        ("twenty m", "20000mm"),
        ("左肺、右肺", "左肺 、 右肺"),
    ],
)
def test_normalization(text, tokens):
    assert " ".join(normalize(text, TABLE)) == tokens


@pytest.mark.parametrize(
    ("question", "reference", "answer", "wanted"),
    [
        (WHAT, "Pleural effusions", "the pleural effusion.", (1, "exact")),
        ("Modality?", "MRI", "Magnetic Resonance Imaging", (1, "exact")),
        ("Which type?", "hepatitis A", "hepatitis", (0.5, "words")),
        (SIZE, "2 cm", "twenty millimeters", (1, "exact")),
        ("Organs?", "Liver, Heart, Spleen, Lung", "heart, lungs and liver", (6 / 7, "list")),
        ("Organs?", "liver and spleen", "spleen; liver", (1, "list")),
        ("Organs?", "left lung, right kidney", "right kidney, left lung", (1, "list")),
        ("Organs?", "left lung, right kidney", "left lung", (2 / 3, "list")),
        (SIZE, "2 cm", "about 2.1 cm", (1, "number")),
        (SIZE, "2 cm", "2.11 cm", (0, "number")),
        (SIZE, "2 x 3 cm", "31 x 20 mm", (1, "number")),
        ("How many ml?", "1000", "1 l", (1, "number")),
        ("What is the fraction?", "50 %", "52 percent", (1, "number")),
        (COUNT, "three", "There are 3 lesions", (1, "number")),
        (COUNT, "3", "several", (0, "number")),
        (THERE, "No", "There is no pneumothorax", (1, "yes/no")),
        (THERE, "Yes", "Yes, a large one on the left", (1, "yes/no")),
        (THERE, "No pneumothorax", "No.", (1, "yes/no")),
        (THERE, "Yes", "Pneumothorax is present", (1, "yes/no")),
        (SIDE, "Left", "The effusion is on the left side.", (1, "words")),
        ("Which lung?", "Both", "left lung and right lung", (1, "words")),
        (WHAT, "left pleural effusion", "pleural effusion", (2 / 3, "words")),
        (WHAT, "no effusion", "effusion is absent", (1, "words")),
        (LESION, "lung abscess", "an abscess", (1, "words")),
        (CHOICE, "CT", "It is a CT", (1, "words")),
        ("哪个肺？", "左肺", "左肺。", (1, "exact")),
        ("Sign?", "+", " +", (1, "exact")),
    ],
)
def test_rules_by_hand(question, reference, answer, wanted):
    assert scored(question, reference, answer) == (pytest.approx(wanted[0]), wanted[1])


# Question, reference, attack, and its wanted score. The right short answer, the reference, always has 1.
ATTACKS = [
    # Flips.
    (WHAT, "left effusion", "no left effusion", 0),
    (WHAT, "no left effusion", "left effusion", 0),
    (WHAT, "left effusion", "right effusion", 0),
    (WHAT, "left effusion", "right-sided pleural effusion", 0),
    (WHAT, "left effusion", "bilateral effusions", 0),
    (WHAT, "bilateral effusion", "left effusion", 0),
    (WHAT, "effusion", "effusion isn't seen", 0),
    (WHAT, "no effusion or mass", "effusion or mass", 0),
    (WHAT, "normal heart", "abnormal heart", 0),
    (WHERE, "right upper lobe", "right lower lobe", 0),
    (WHAT, "left effusion, cardiomegaly", "right effusion, cardiomegaly", 0),
    ("What modality?", "contrast CT", "non-contrast CT", 0),
    # Hedging.
    (SIDE, "left", "left or right", 0),
    (SIDE, "left", "left and right", 0),
    (SIDE, "left", "left/right", 0),
    (SIDE, "left", "either left, or maybe not", 0),
    (CHOICE, "CT", "CT or MRI", 0),
    (CHOICE, "CT", "CT vs. MRI", 0),
    (CHOICE, "CT", "CT, MRI", 1 / 2),
    (THERE, "Yes", "Yes and no", 0),
    (THERE, "Yes", "Yes no", 0),
    (THERE, "No", "no yes", 0),
    (THERE, "Yes", "Yes, there is no pneumothorax", 0),
    (THERE, "No", "No, a pneumothorax is present", 0),
    # Stuffing.
    (LESION, "lung abscess", "abscess, mass, pneumonia, effusion", 1 / 4),
    (LESION, "lung abscess", "abscess mass pneumonia effusion", 1 / 4),
    ("Organs?", "liver, spleen", "liver, spleen, heart, lung, kidney, brain", 1 / 2),
    (COUNT, "3", "1 2 3 4 5", 0),
    (COUNT, "3", "3-4", 0),
    (WHAT, "effusion", "effusion " * 100, 0),
    # Copies of the question.
    (LESION, "lung abscess", LESION, 0),
    (LESION, "lung abscess", "lung lesion", 0),
    (THERE, "Yes", THERE, 0),
    (CHOICE, "CT", CHOICE * 3, 0),
    (SIDE, "left", "pleural effusion", 0),
    # Units.
    (SIZE, "2 cm", "2 mm", 0),
    (SIZE, "2 cm", "2", 0),
    (SIZE, "2 cm", "2 ml", 0),
    (COUNT, "5", "5 mm", 0),
    (SIZE, "2 x 3 cm", "2 cm", 0),
    # Unicode and nothing.
    (WHAT, "mass", "ma\u200bss", 1),
    (WHAT, "mass", "ｍａｓｓ", 1),
    (WHAT, "mass", "mаss", 0),  # Cyrillic
    (WHAT, "mass", "\u202e\u0301\0\ud800", 0),
    (WHAT, "mass", "the of in", 0),
    (WHAT, "mass", "", 0),
    ("哪个肺？", "左肺", "右肺", 0),
]


def unseen():
    """Attacks by someone who has not seen the code; `wanted` is a score, or a bound such as <1."""
    lines = Path(__file__).with_name("attacks.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        text, count = row.get("answer_repeat", (row.get("answer"), 1))
        yield row["question"], row["reference"], text * count, row["wanted"]


@pytest.mark.parametrize(("question", "reference", "attack", "wanted"), unseen())
def test_attacks_of_a_stranger(question, reference, attack, wanted):
    value = scored(question, reference, attack)[0]
    assert {"1": value == 1, "0": value == 0, "<1": value < 1, ">0": value > 0}[wanted], value
    assert scored(question, reference, reference)[0] == 1


@pytest.mark.parametrize(("question", "reference", "attack", "wanted"), ATTACKS)
def test_attacks(question, reference, attack, wanted):
    assert scored(question, reference, attack)[0] == pytest.approx(wanted)
    assert scored(question, reference, reference)[0] == 1


@pytest.mark.parametrize(
    "piece", ["x", "9", "no ", "left or right ", ", ", "1 2 ", "\u0301", "left mass, ", "1,000", "-"]
)
def test_long_texts_take_linear_time(bounded_time, piece):
    long = piece * (N // len(piece))
    with bounded_time():
        assert scored(WHAT, "mass", long) == (0, "long")
        assert scored(long, "mass", "effusion")[0] == 0
        assert scored(WHAT, long, f"{long}.")[1] in ("exact", "long")
        # The longest texts that are compared by items.
        assert scored(WHAT, f"{piece * (999 // len(piece))}y", piece * (3900 // len(piece)))[0] <= 1


NOUNS = ("lung", "kidney", "mass", "effusion", "nodule", "heart")
words = st.sampled_from([*NOUNS, "upper", "3", "4", "cm", "T2", "left", "right", "no", ",", "and", "or", "%", "yes"])
texts = st.lists(words | st.text(max_size=3), max_size=9).map(" ".join)


@given(texts, texts, texts)
def test_any_text(answer, reference, question):
    value, rule = scored(question, reference, answer)
    assert 0 <= value <= 1
    assert rule in set(Rule)
    # Case, white space and a full stop do not matter.
    assert (
        scored(question, reference, f" {answer.swapcase()} . ")[0] == pytest.approx(value) or "ß" in answer.casefold()
    )


nouns = st.lists(st.sampled_from(NOUNS), min_size=1, max_size=3, unique=True)


@given(nouns, st.sampled_from([" ", ", "]), st.sampled_from(["left", "right"]))
def test_flips_of_any_answer_earn_nothing(core, joint, side):
    reference = joint.join(f"{side} {noun}" for noun in core) if joint == ", " else f"{side} {' '.join(core)}"
    other = {"left": "right", "right": "left"}[side]
    assert scored(WHAT, reference, reference)[0] == 1
    for flip in (f"no {reference}", reference.replace(side, other), f"{reference}, {reference.replace(side, other)}"):
        assert scored(WHAT, reference, flip) == (0, "flip")


@given(st.floats(0.01, 1e6), st.floats(0.5, 1.5), st.sampled_from([("cm", 10), ("mm", 1), ("m", 1000)]))
def test_tolerance_and_units(size, ratio, unit):
    name, factor = unit
    answer = size * ratio
    value = scored(SIZE, f"{size * factor:.6f} mm", f"{answer:.9f} {name}")[0]
    if not math.isclose(abs(ratio - 1), 0.05, abs_tol=1e-3):
        assert value == (abs(ratio - 1) < 0.05)


@given(nouns, nouns, nouns)
def test_overlaps_against_plain_counts(answer, reference, question):
    """A second implementation of both figures, on lists of words."""
    asked = frozenset(question)
    found, wanted = split_items(answer), split_items(reference)
    mine = [word for word in answer if word not in question] if not set(reference) <= asked else answer
    right = [word for word in reference if word not in question] or reference
    shared = sum(word in right for word in mine)
    assert word_overlap(found, wanted, asked) == pytest.approx(shared / (len(mine) + len(right) - shared))
    both = [[Item(frozenset([word]), frozenset(), False) for word in some] for some in (answer, reference)]
    hits = sum(word in reference for word in answer)
    precision, recall = hits / len(answer), hits / len(reference)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0
    assert list_f1(*both, frozenset()) == pytest.approx(f1)


def test_reward_is_for_the_strict_form_of_open_answers():
    columns = {"question": [WHAT] * 5, "answer": ["mass"] * 5, "options": [[], [], [], [], ["mass", "none"]]}
    completions = [
        "<think>It is big.</think><answer>a mass</answer>",
        [{"role": "assistant", "content": "<answer>large mass</answer>"}],
        "mass",
        "<answer>mass</answer> mass",
        "<answer>mass</answer>",
    ]
    reward = checked("open_answer", open_answer)
    assert reward(prompts=[""] * 5, completions=completions, **columns) == [1, 0.5, 0, 0, None]
    closed = {name: values[4:] for name, values in columns.items()}
    assert reward(prompts=[""], completions=["x"], **closed) == [None]


def test_own_synonyms_extend_those_of_the_package(tmp_path):
    file = tmp_path / "own.tsv"
    file.write_text("\ufeff# ours\n\nCT\tKatze\nwater on the lung\tpleural effusion\n!wet\tdry\n", encoding="utf-8")
    own = read_synonyms(file)
    assert scored("Which?", "computed tomography", "Katze", own) == (1, "exact")
    assert scored(WHAT, "left pleural effusion", "left water on the lungs", own) == (1, "exact")
    assert scored(WHAT, "wet lung", "dry lung", own) == (0, "flip")
    assert scored(WHAT, "wet lung", "dry lung")[0] > 0
    assert scored("Which?", "computed tomography", "Katze") == (0, "words")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"mass", "row 2: 'mass' has an empty term or only one"),
        (b"mass\t...?", "row 2: .*empty term"),
        (b"CT\tMRI", "row 2: .*different groups, 'ct' and 'mri'"),
        (b"left\tright", "row 2: .*exclude each other"),
        (b"upper\tlower", "row 2: .*exclude each other"),
        (b"!big lung\tsmall", "row 2: .*different single words"),
        (b"\xff\tx", "cannot be read .*UTF-8"),
    ],
)
def test_faulty_synonyms_are_named(tmp_path, line, message):
    file = tmp_path / "own.tsv"
    file.write_bytes(b"# ours\n" + line + b"\n")
    with pytest.raises(UserError, match=f"own.tsv.*{message}"):
        read_synonyms(file)
    with pytest.raises(UserError, match=r"none.tsv.*cannot be read"):
        read_synonyms(tmp_path / "none.tsv")


def test_no_term_of_the_package_is_a_number_or_changes_twice():
    for term, main in TABLE.canonical.items():
        assert TABLE.apply(list(main)) == list(main), term
        assert not any(map(quantity, main))
