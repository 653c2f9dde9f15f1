"""Completions drawn each in its own way, and turns that go on from kept prompts: against the plain ways, by family."""

import pytest
import torch
from test_sharing_generation import END, PROMPTS, fits, generated, inputs, settings, shapes_of_passes

from medvlm_r1.models.decoding.per_row_sampling import (
    CachedPrefixRows,
    RowSampling,
    decode_cached_prefix,
    sample_per_row,
)
from medvlm_r1.models.decoding.shared_generation import n_per_prompt
from medvlm_r1.training.self_check.equality import IMAGE, TINY, VOCABULARY

ENDS = list(range(END, VOCABULARY))


def samplings(seeds, temperature=1.0):
    return [RowSampling(temperature=temperature, seed=seed) for seed in seeds]


def completions(model, groups, family="qwen2_vl", **changes):
    return generated(model, sample_per_row(groups), family, **changes)


@pytest.fixture
def model():
    return TINY["qwen2_vl"].model().eval()


@pytest.mark.parametrize("family", TINY)
def test_greedy_completions_are_those_of_each_prompt_alone(family):
    model = TINY[family].model().eval()
    expected = generated(model, n_per_prompt([1, 1, 1]), family)
    texts = completions(model, [[None], [*samplings([1, 2]), None], [None, None]], family)
    assert [texts[0], texts[3], texts[4], texts[5]] == [expected[0], expected[1], expected[2], expected[2]]


def test_a_completion_does_not_depend_on_those_beside_it(model):
    together = completions(
        model, [samplings([1, 2, 3]), [None, *samplings([4, 4, 5])], samplings([1])], max_new_tokens=40
    )
    for number, (prompt, seed) in enumerate([(0, 1), (0, 2), (0, 3), (1, None), (1, 4), (1, 4), (1, 5), (2, 1)]):
        groups = [[None], [None], [None]]
        groups[prompt] = [None if seed is None else RowSampling(temperature=1.0, seed=seed)]
        assert completions(model, groups, max_new_tokens=40)[prompt] == together[number]
    assert together[4] == together[5]
    assert len({tuple(row) for row in together[:3]}) > 1


def test_a_row_is_computed_once_until_its_completions_part(model, monkeypatch):
    shapes = shapes_of_passes(model, monkeypatch)
    # Nearly greedy: nobody parts.
    completions(model, [samplings([1, 2, 3, 4], 1e-4), [None], [None]], max_new_tokens=6)
    assert max(rows for rows, _ in shapes) == 3


def test_draws_follow_the_models_distribution(model):
    copies = 3000
    texts = completions(model, [samplings(list(range(copies)), 0.7), [None], [None]], max_new_tokens=2)
    counts = torch.bincount(torch.tensor([row[0] for row in texts[:copies]]), minlength=VOCABULARY)
    logits = model(**inputs("qwen2_vl", PROMPTS)).logits[0, -1] / 0.7
    assert fits(counts, logits.softmax(-1))


def test_every_draw_is_that_of_a_plain_forward_with_the_same_random_numbers(model):
    seeds, batch = [1, 2, 3, 4], inputs("qwen2_vl", PROMPTS)
    texts = completions(model, [samplings(seeds), [None], [None]], max_new_tokens=20, suppress_tokens=[IMAGE])
    for seed, row in zip(seeds, texts, strict=False):
        ids = torch.cat([batch["input_ids"], torch.tensor(row).expand(len(PROMPTS), -1)], dim=1)
        mask = torch.cat([batch["attention_mask"], torch.ones(len(PROMPTS), len(row), dtype=torch.long)], dim=1)
        logits = model(**batch | {"input_ids": ids, "attention_mask": mask} | TINY["qwen2_vl"].extra(ids)).logits
        logits = logits[0, -len(row) - 1 : -1].detach().double().index_fill(1, torch.tensor([IMAGE]), -torch.inf)
        numbers = torch.rand(20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[: len(row)]
        passed = logits.softmax(-1).cumsum(-1) > numbers[:, None]
        assert passed.long().argmax(-1).tolist() == row
    assert max(map(len, texts[: len(seeds)])) > 2


def test_a_forbidden_token_is_never_drawn(model):
    forbidden = [IMAGE, *range(20, 70)]
    texts = completions(model, [samplings(list(range(300)), 5.0), [None], [None]], suppress_tokens=forbidden)
    assert not {token for row in texts for token in row} & {*forbidden}


@pytest.mark.parametrize("family", TINY)
def test_turns_go_on_from_kept_prompts_as_if_they_were_read_again(family):
    model = TINY[family].model().eval()
    batch = inputs(family, PROMPTS)
    caches = {}
    decode = sample_per_row([[None], [None], [None]], range(3), caches)
    model.generate(**batch, generation_config=settings(max_new_tokens=2), custom_generate=decode)
    if not caches:
        assert "sliding_attention" in model.config.get_text_config().layer_types
        return
    owner, turns = [0, 0, 1, 2], [[11, 12, 13, 14], [15], [16, 17], [11, 12, 13]]
    with torch.inference_mode():
        logits = CachedPrefixRows(model, [caches[n] for n in range(3)], owner, turns).logits()
        start = CachedPrefixRows(model, [caches[n] for n in range(3)], owner, turns)
        rows = decode_cached_prefix(start, max_new_tokens=20, ends=ENDS, suppressed=[IMAGE])
    for row, (prompt, prefill) in enumerate(zip(owner, turns, strict=True)):
        read = batch["input_ids"][prompt][batch["attention_mask"][prompt].bool()]
        ids = torch.cat([read, torch.tensor(prefill)])[None]
        whole = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            **TINY[family].pixels(PROMPTS[prompt : prompt + 1]),
            **TINY[family].extra(ids),
        }
        with torch.inference_mode():
            expected = model(**whole).logits[0, -1]
        assert torch.allclose(logits[row], expected, atol=1e-5)
        assert generated(model, batch=whole, max_new_tokens=20, suppress_tokens=[IMAGE]) == [rows[row]]
