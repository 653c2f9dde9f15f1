import pytest

from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError
from medvlm_r1.prompts.templates import TEMPLATES, lettered, messages, opened_reasoning, render_prompt


def sample(**changes):
    values = {
        "id": "s1",
        "images": ("images/1.png",),
        "question": "What is seen?",
        "options": ("Effusion", "Normal"),
        "answer": "Normal",
        "modality": "MRI",
    }
    return Sample(**{**values, **changes})


def test_options_have_letters():
    ten = tuple(f"o{i}" for i in range(10))
    assert lettered(sample(options=ten, answer="o0")).splitlines()[-1] == "J) o9"
    assert lettered(sample(options=(), answer="a cyst")) == "What is seen?"


def test_the_template_of_the_paper():
    assert render_prompt(sample()) == (
        "What is seen?\nA) Effusion\nB) Normal\n"
        "Your task: \n"
        "1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "3. No extra information or text outside of these tags."
    )


@pytest.mark.parametrize("template", TEMPLATES)
def test_braces_and_signs_in_a_question_are_text(template):
    for question in ("{question} {0} {x!r}", "p < |t| > 2 <|>"):
        assert f"{question}\nA)" in render_prompt(sample(question=question), template)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_messages_are_one_user_message_with_the_images_first(count):
    of = sample(images=tuple(f"images/{i}.png" for i in range(count)))
    text = {"type": "text", "text": render_prompt(of, "answer-only")}
    assert messages(of, "answer-only") == [{"role": "user", "content": [{"type": "image"}] * count + [text]}]
    assert messages(of)[0]["content"][-1]["text"] == render_prompt(of, "medvlm-r1")


def test_unknown_template_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown prompt template 'medvlm_r1'; did you mean 'medvlm-r1'\?"):
        render_prompt(sample(), "medvlm_r1")


@pytest.mark.parametrize(
    ("rendered", "opening"),
    [
        ("<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>", "<think>"),
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>\n\n </think>\n\n", ""),
        ("enclose it in <think>...</think> tags.<|im_end|>\nassistant\n", ""),
        ("<think>" * 2 + " " * 9, "<think>" + " " * 9),
        ("", ""),
    ],
)
def test_the_opening_is_read_from_the_end_of_the_prompt(rendered, opening):
    assert opened_reasoning(rendered) == opening
