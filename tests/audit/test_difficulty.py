"""Pass rates: estimated once per question, resumed without asking again, refused when anything differs."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.audit import difficulty
from medvlm_r1.audit.difficulty import estimate_difficulty
from medvlm_r1.audit.variant import AuditBackend, answer_from_generation
from medvlm_r1.data.difficulty import DIFFICULTY, PassRate, histogram, read_pass_rates
from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationSettings
from scripted import tagged


class Dice(AuditBackend):
    """Answers sample n of a question with its right letter if n is below the number in the question's id."""

    def __init__(self, stop_after=None):
        self.variants, self.stop_after = [], stop_after

    def iterate(self, variants, done=()):
        for index, variant in enumerate(variants):
            if len(self.variants) == self.stop_after:
                raise KeyboardInterrupt
            self.variants.append((variant.sample.id, variant.seed))
            right = variant.seed % 4 < int(variant.sample.id[1:]) % 5
            text = tagged(variant.sample.letter) if right else "..."
            generation = Generation(text=text, n_tokens=3, truncated=not right)
            yield [(index, answer_from_generation(variant, generation, "medvlm-r1"))]


@pytest.fixture
def estimate(data_dir, tmp_path, tiny_policy_dir, monkeypatch):
    """A function that estimates a copy of the eight questions with a backend; the copy is its `folder`."""
    folder = shutil.copytree(data_dir, tmp_path / "data")

    def run(backend, **changes):
        monkeypatch.setattr(difficulty, "open_audit_backend", lambda *_: backend)
        names = {"temperature", "seed"} & changes.keys()
        settings = GenerationSettings(**{"temperature": 1.0, **{name: changes.pop(name) for name in names}})
        return estimate_difficulty(str(tiny_policy_dir), folder, settings, **{"samples": 4, "batch_size": 3, **changes})

    run.folder = folder
    return run


def test_pass_rates_by_hand(estimate):
    progress = []
    result = estimate(Dice(), progress=lambda done, total: progress.append((done, total)))
    rates = read_pass_rates(estimate.folder)
    assert [rates[f"q{n}"].correct for n in range(8)] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert rates["q2"].ci95 == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson's interval of 2 of 4
    assert [row["pass_rate"] for row in map(json.loads, (estimate.folder / DIFFICULTY).read_text().splitlines())][
        :3
    ] == [0, 0.25, 0.5]
    assert (result["n"], result["mean"], result["cut_off"]) == (8, pytest.approx(100 * 13 / 32), 100 * 19 / 32)
    assert result["histogram"] == {
        **{"never correct": 2, "0-20 %": 0, "20-40 %": 2, "40-60 %": 2, "60-80 %": 1, "80-100 %": 0},
        "always correct": 1,
    }
    assert progress[-1] == (8, 8)


def test_an_interrupted_estimate_resumes_without_asking_again(estimate):
    whole = Dice()
    estimate(whole)
    expected = read_pass_rates(estimate.folder)
    (estimate.folder / DIFFICULTY).unlink()
    with pytest.raises(KeyboardInterrupt):
        estimate(Dice(stop_after=18))
    with (estimate.folder / DIFFICULTY).open("a") as file:
        file.write('{"id": "q4", "cor')  # a row that was being written
    rest = Dice()
    estimate(rest)
    assert read_pass_rates(estimate.folder) == expected
    assert {name for name, _ in rest.variants} == {"q4", "q5", "q6", "q7"}
    assert len(whole.variants) == len(set(whole.variants)) == 32
    again = Dice()
    estimate(again)
    assert again.variants == []


def test_seeds_are_disjoint(estimate):
    first, second = Dice(), Dice()
    estimate(first)
    (estimate.folder / DIFFICULTY).unlink()
    estimate(second, seed=1)
    assert not set(first.variants) & set(second.variants)


@pytest.mark.parametrize(
    ("changes", "edit", "message"),
    [
        ({"samples": 8}, None, "another samples (then 4, now 8)"),
        ({"temperature": 0.5}, None, "another temperature (then 1.0, now 0.5)"),
        ({"seed": 3}, None, "another seed (then 0, now 3)"),
        ({"template": "answer-only"}, None, "another prompt"),
        ({"dtype": "float32"}, None, "another model"),
        ({}, ('"correct": 1', '"correct": 9'), "difficulty.jsonl, row 2: Value error, 9 of 4 completions"),
        ({}, ('"cut_off"', '"cut"'), "difficulty.jsonl, row 1: cut_off: Field required"),
        ({}, ('"id": "q1"', '"id": "q0"'), "row 2: the id 'q0' has a pass rate already"),
    ],
)
def test_other_settings_and_damaged_files_are_refused(estimate, changes, edit, message):
    estimate(Dice())
    file = estimate.folder / DIFFICULTY
    if edit:
        file.write_text(file.read_text().replace(*edit, 1))
    with pytest.raises(UserError) as refused:
        estimate(Dice(), **changes)
    assert message in str(refused.value)


@given(st.lists(st.integers(1, 64).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))))
def test_every_pass_rate_is_in_the_bin_of_its_value(pairs):
    fields = {"id": "q", "answer": "a", "ci95": (0, 1), "cut_off": 0, "model": "m", "template": "t", "key": {}}
    counts = histogram(PassRate(correct=k, samples=n, **fields) for k, n in pairs)
    assert sum(counts.values()) == len(pairs)
    assert counts["never correct"] == sum(k == 0 for k, _ in pairs)
    assert counts["always correct"] == sum(k == n for k, n in pairs)
    assert counts["40-60 %"] == sum(0 < k < n and 2 * n <= 5 * k < 3 * n for k, n in pairs)


def test_the_command_with_a_real_model_and_a_server(command, estimate, tiny_policy_dir, server):
    """The tiny model never answers; the server always says A."""
    arguments = ("data", "difficulty", estimate.folder, "--samples", 2, "--max-new-tokens", 4)
    code, out, error = command(*arguments, "--model", tiny_policy_dir)
    assert code == 0, error
    assert "Pass rates of 8 questions, 2 completions each: mean 0.0 %" in out
    code, _, error = command(*arguments, "--model", f"openai:{server.url}#any")
    assert (code, "another model" in error, "delete or rename the file" in error) == (1, True, True)
    (estimate.folder / DIFFICULTY).unlink()
    code, out, error = command(*arguments, "--model", f"openai:{server.url}#any", "--json")
    assert (code, json.loads(out)["n"]) == (0, 8), error
    code, _, error = command("data", "difficulty", estimate.folder / "none", "--model", tiny_policy_dir)
    assert (code, "no such file" in error) == (1, True)
