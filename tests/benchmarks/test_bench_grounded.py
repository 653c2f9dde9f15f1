"""The comparison of rewards with few questions and steps: every stage is real, only the sizes differ."""

import json

import pytest

from benchmarks import grounded as bench
from benchmarks.cold_start import written_from_label
from benchmarks.grounded import ACCURACY, Sizes, bench_grounded, grounded_lines, shuffled
from benchmarks.results_page import render_part
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.prompts.conclusion import concluded_letter
from medvlm_r1.prompts.parser import parse_response

SMALL = Sizes(
    train=6,
    test=2,
    start_epochs=1,
    steps=1,
    overrides=("trainer.per_device_train_batch_size=8", "trainer.logging_steps=1"),
)


def test_it_ends_with_a_table_and_goes_on_after_an_interruption(tmp_path, monkeypatch):
    train, rewards = bench.train_grpo, []

    def interrupted(config, **given):
        rewards.append([reward.name for reward in config.rewards])
        if len(rewards) == 2:
            raise KeyboardInterrupt
        return train(config, **given)

    monkeypatch.setattr(bench, "train_grpo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench_grounded(tmp_path, seeds=1, sizes=SMALL)
    weights = tmp_path / "seed-0" / "plain" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    results = bench_grounded(tmp_path, seeds=1, sizes=SMALL)
    assert weights.stat().st_mtime_ns == written
    assert rewards == [[name, "format_paper"] for name in ("accuracy_paper", "grounded", *ACCURACY.values())]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    [seed] = results["seeds"]
    assert set(seed) == {"start", "plain", "grounded"}
    logged = {arm: {name for name in bench.LOGGED if name in figures} for arm, figures in seed.items()}
    assert logged == {"start": set(), "plain": set(), "grounded": {"own_right", "other_right"}}
    for figures in seed.values():
        for name in ("MRI", "CT", "X-ray"):
            assert figures["reliance"][name] == figures["accuracy"][name] - figures["shuffled"][name]
        assert figures["out_of_domain"] == (figures["accuracy"]["CT"] + figures["accuracy"]["X-ray"]) / 2
    assert results["means"]["grounded"]["accuracy"] == seed["grounded"]["accuracy"]
    assert results["gain"]["mean"] == seed["grounded"]["out_of_domain"] - seed["plain"]["out_of_domain"]
    rows = [line for line in render_part("shortcut", results).splitlines() if line.startswith("| accuracy MRI")]
    assert rows == [
        " | ".join(["| accuracy MRI", *(f"{figures['accuracy']['MRI']:.1f}" for figures in seed.values())]) + " |"
    ]
    lines = grounded_lines(results)
    assert RESEARCH_USE in lines
    assert [line.split()[0] for line in lines[2:5]] == ["start", "plain", "grounded"]


def test_images_are_exchanged_within_a_modality_and_reasonings_conclude_their_label(tmp_path):
    samples = write_benchmark(tmp_path / "a", n=3)
    other = shuffled(samples)
    assert [(s.id, s.question, s.answer) for s in other] == [(s.id, s.question, s.answer) for s in samples]
    assert sorted(s.images for s in other) == sorted(s.images for s in samples)
    modality_of = {s.images: s.modality for s in samples}
    for before, after in zip(samples, other, strict=True):
        assert after.images != before.images
        assert modality_of[after.images] == before.modality
    for sample in samples:
        response = parse_response(written_from_label(sample), sample.options)
        assert response.well_formed
        assert response.reasoning.startswith(str(sample.truth["asks"]).capitalize())
        assert concluded_letter(response.reasoning, sample.options) == response.letter == sample.letter
