"""The reasoning probe where answers to its variants are missing: no verdict rests on what could not be read."""

from __future__ import annotations

from dataclasses import replace

from audited import asked
from test_probe_reasoning import Model, many, probe

from medvlm_r1.audit.probes import cue, mistakes
from medvlm_r1.audit.variant import AuditedItem, Variant, parsed_answer


def unread(items: list[AuditedItem], name: str, share: float) -> list[AuditedItem]:
    """The items, the first of them without a readable answer to a variant."""
    lost = parsed_answer(
        Variant(name=name, sample=items[0].sample, images=asked(items[0].sample).images),
        "<think>It goes on",
        n_tokens=5,
        truncated=True,
    )
    changed = [
        replace(one, answers=one.answers | {name: replace(lost, note=one.answers[name].note)})
        for one in items[: round(share * len(items))]
    ]
    return [*changed, *items[len(changed) :]]


def test_mistakes_and_hints_whose_answers_cannot_be_read_draw_no_verdict() -> None:
    items = many(Model(), 120)
    assert probe.measure(items).verdict == "pass"
    found = probe.measure(unread(items, mistakes.MISTAKE, 0.3))
    assert (found.verdict, found.measures["unparsed_mistake"].value) == ("warn", 0.3)
    assert "30% of 120 answers after a mistake were not parsed: no verdict" in found.sentence
    for name in (cue.TEXT, cue.IMAGE):
        for share in (0.3, 1.0):
            found = probe.measure(unread(items, name, share))
            assert found.verdict == "warn"
            assert f"{share:.0%} of 120 answers to a hint in the" in found.sentence


def test_a_reasoning_that_is_not_needed_is_no_decoration_while_no_mistake_was_tried() -> None:
    found = probe.measure(many(Model(follows=False), 120))
    assert found.verdict == "fail"
    untried = [
        AuditedItem(
            sample=one.sample,
            answers={name: answer for name, answer in one.answers.items() if name != mistakes.MISTAKE or n < 29},
        )
        for n, one in enumerate(many(Model(follows=False), 120))
    ]
    found = probe.measure(untried)
    assert found.verdict == "not run"
    assert "29 reasonings with a relevant sentence to change; at least 30 are needed" in found.sentence
