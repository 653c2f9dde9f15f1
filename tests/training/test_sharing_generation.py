"""Generation that runs each prompt once, against transformers' own loop."""

import functools

import pytest
import torch
from operations import Waits
from scipy.stats import chisquare
from transformers import GenerationConfig

from medvlm_r1.models.decoding import per_row_sampling, shared_generation
from medvlm_r1.models.decoding.per_row_sampling import (
    CachedPrefixRows,
    RowSampling,
    decode_cached_prefix,
    sample_per_row,
)
from medvlm_r1.models.decoding.shared_generation import n_per_prompt
from medvlm_r1.training.self_check.equality import IMAGE, TINY, VOCABULARY, Prompt

END = 80
# Of unequal lengths, so that there is padding.
PROMPTS = [Prompt(9, ((2, 3),)), Prompt(2, ((1, 2),)), Prompt(5, ((2, 2),))]


def inputs(family, prompts):
    torch.manual_seed(1)
    rows = [TINY[family].ids(prompt) for prompt in prompts]
    length = max(len(row) for row in rows)
    ids = torch.stack([torch.nn.functional.pad(row, (length - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(length) >= length - len(row) for row in rows]).long()
    return {"input_ids": ids, "attention_mask": mask, **TINY[family].pixels(prompts), **TINY[family].extra(ids)}


def settings(**changes):
    # Many end tokens: rows end at different times.
    ends = list(range(END, VOCABULARY))
    return GenerationConfig(
        **{"max_new_tokens": 24, "do_sample": False, "eos_token_id": ends, "pad_token_id": 0, **changes}
    )


def completed(output, prompt):
    """Rows without what stands after the end token."""
    rows = []
    for row in output[:, prompt:].tolist():
        end = next((index for index, token in enumerate(row) if token >= END), len(row))
        rows.append(row[: end + 1])
    return rows


def generated(model, decode=None, family="qwen2_vl", batch=None, **changes):
    """The completions of `PROMPTS` by a decoding function, or by transformers' own loop."""
    batch = inputs(family, PROMPTS) if batch is None else batch
    output = model.generate(**batch, generation_config=settings(**changes), custom_generate=decode)
    return completed(output, batch["input_ids"].shape[1])


def shapes_of_passes(model, monkeypatch):
    """Filled with the rows and tokens of every pass through the model."""
    shapes = []
    forward = type(model).forward

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counted)
    return shapes


@pytest.fixture
def model():
    return TINY["qwen2_vl"].model().eval()


@pytest.mark.parametrize("family", TINY)
def test_greedy_tokens_are_those_of_transformers(family):
    model = TINY[family].model().eval()
    # Greedy decoding of random weights ends soon or never; some settings see both.
    seen = set()
    penalty = {"repetition_penalty": 1.7, "suppress_tokens": [IMAGE, 5, 6]}
    for changes in ({}, penalty, {"min_new_tokens": 3, "repetition_penalty": 1.3}):
        expected = generated(model, family=family, **changes)
        texts = generated(model, n_per_prompt([2, 1, 3]), family, **changes)
        assert texts == [expected[0]] * 2 + [expected[1]] + [expected[2]] * 3
        seen |= {len(row) for row in expected}
    assert len(seen) > 1


def test_a_cache_grows_past_its_room(model, monkeypatch):
    monkeypatch.setattr("medvlm_r1.models.decoding.kv_cache._GROWTH", 3)
    assert generated(model, n_per_prompt([1, 1, 1])) == generated(model)


@pytest.mark.parametrize("changes", [{}, {"top_k": 5}, {"top_p": 0.7, "temperature": 0.8}, {"min_p": 0.1}])
def test_draws_are_those_of_transformers_for_one_completion(model, changes):
    batch, changes = inputs("qwen2_vl", PROMPTS[:1]), {"do_sample": True, "top_k": 0, **changes}
    for seed in range(3):
        torch.manual_seed(seed)
        expected = generated(model, batch=batch, **changes)
        torch.manual_seed(seed)
        assert generated(model, n_per_prompt([1]), batch=batch, **changes) == expected


def test_greedy_rows_do_not_change_the_draws_of_the_others(model):
    once = inputs("qwen2_vl", PROMPTS)
    twice = {name: torch.cat([value, value]) for name, value in once.items()}
    changes = {"do_sample": True, "top_k": 0, "temperature": 2.0}
    greedy = generated(model, temperature=2.0)
    ends = set()
    for seed in range(5):
        torch.manual_seed(seed)
        alone = generated(model, n_per_prompt([3, 4, 2]), batch=once, **changes)
        torch.manual_seed(seed)
        together = generated(model, n_per_prompt([3, 4, 2, 1, 1, 1], greedy=3), batch=twice, **changes)
        assert together == [*alone, *greedy]
        ends |= {len(row) for row in together[:9]}
    # Rows ended at different times, so that others moved.
    assert len(ends) > 2


def test_samples_follow_the_models_distribution(model):
    batch = inputs("qwen2_vl", PROMPTS)
    copies = 4000
    torch.manual_seed(0)
    config = settings(do_sample=True, top_k=0, max_new_tokens=2)
    output = model.generate(**batch, generation_config=config, custom_generate=n_per_prompt([copies] * 3))
    whole = model(**batch).logits[:, -1]
    # The second token of rows that did not end, given the first: the cache of the right prompt was read.
    for number, prompt in enumerate(PROMPTS):
        rows = output[number * copies : (number + 1) * copies, batch["input_ids"].shape[1] :]
        counts = torch.bincount(rows[:, 0], minlength=VOCABULARY)
        assert fits(counts, whole[number].softmax(-1))
        first = int(counts[:END].argmax())
        read = batch["input_ids"][number][batch["attention_mask"][number].bool()]
        ids = torch.cat([read, torch.tensor([first])])[None]
        logits = model(input_ids=ids, **TINY["qwen2_vl"].pixels([prompt]), **TINY["qwen2_vl"].extra(ids)).logits[0, -1]
        counts = torch.bincount(rows[rows[:, 0] == first, 1], minlength=VOCABULARY)
        assert fits(counts, logits.softmax(-1))


def fits(counts, probabilities):
    """Pearson's test; cells that expect fewer than five draws are taken together."""
    expected = probabilities.detach().double() * counts.sum()
    cells = torch.where(expected < 5, 0, torch.arange(1, len(expected) + 1))
    seen, wanted = (torch.zeros(len(expected) + 1).double().index_add(0, cells, x.double()) for x in (counts, expected))
    used = wanted > 0
    wanted *= seen[used].sum() / wanted.sum()
    return bool(chisquare(seen[used].numpy(), wanted[used].numpy()).pvalue > 1e-3)


def test_prompts_that_were_multiplied_before_are_refused(model):
    with pytest.raises(ValueError, match="wanted 3 prompts, one for each number of completions, got 6"):
        generated(model, n_per_prompt([1, 1, 1]), num_return_sequences=2, do_sample=True)


@pytest.mark.parametrize("way", ["rows of their own", "shared prompts", "sampled by row", "cached prefixes"])
def test_a_decoding_step_waits_for_the_device_once(way, monkeypatch):
    text = {**TINY["qwen2_vl"].config["text_config"], "num_hidden_layers": 4}
    model = TINY["qwen2_vl"].model(text_config=text).eval()
    shapes, loop, waits = shapes_of_passes(model, monkeypatch), shared_generation.decode_rows, Waits(monkeypatch)
    waited = 0

    def counted_loop(*args):
        nonlocal waited
        shapes.clear()
        waits.count = 0
        with waits:
            output = loop(*args)
        waited = waits.count
        return output

    for module in (per_row_sampling, shared_generation):
        monkeypatch.setattr(module, "decode_rows", counted_loop)
    torch.manual_seed(0)
    caches = {}
    sampled = [RowSampling(temperature=1.0, seed=seed) for seed in range(4)]
    decode, sampling = {
        "rows of their own": (n_per_prompt([1, 2, 1]), {"do_sample": True, "top_k": 0}),
        "shared prompts": (n_per_prompt([4, 3, 2]), {"do_sample": True, "top_k": 0}),
    }.get(way, (sample_per_row([[None, *sampled], sampled, [None]], range(3), caches), {}))
    assert len({len(row) for row in generated(model, decode, **sampling)}) > 1
    if way == "cached prefixes":
        with torch.inference_mode():
            turns = CachedPrefixRows(model, list(caches.values()), [0, 0, 1, 2], [[11, 12], [15], [16, 17], [18]])
            decode_cached_prefix(turns, max_new_tokens=24, ends=list(range(END, VOCABULARY)), suppressed=[IMAGE])
    rows = [rows for rows, _ in shapes]
    assert min(rows) < max(rows)
    assert 0 < waited <= len(rows) + 1
