"""Generation: the same answers whatever the batch, in the order of the questions, without image tokens."""

import pytest
import torch
from PIL import Image

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import vision_token_ids

TOKENS = 6


def question(text, *sizes):
    """A question with one image of each size."""
    content = [*({"type": "image"} for _ in sizes), {"type": "text", "text": text}]
    images = [Image.linear_gradient("L").resize(size).convert("RGB") for size in sizes]
    return GenerationInput(prompt=[{"role": "user", "content": content}], images=images)


ITEMS = [
    question("Which organ is shown?", (40, 30)),
    question("Is there a lesion in the left lung of this patient? A) yes B) no", (300, 400)),
    question("no image at all"),
    question("Which", (90, 30), (30, 90)),
    question("Which imaging modality was used? A) MRI B) CT", (56, 56)),
    question("another without"),
]


def complete(policy, items=ITEMS, batch_size=8, **settings):
    settings = GenerationSettings(max_new_tokens=TOKENS, **settings)
    return LocalGenerator(policy=policy, batch_size=batch_size).generate(items, settings)


def bias(policy, tokens, by):
    """Raise the logits of some tokens at every step."""

    def add(module, inputs, logits):
        raised = logits.clone()
        raised[..., tokens] += by
        return raised

    policy.model.lm_head.register_forward_hook(add)


def test_equals_a_plain_loop_over_full_forwards(policy):
    generations = complete(policy, batch_size=3)
    forbidden = vision_token_ids(policy.model)
    for item, generation in zip(ITEMS, generations, strict=True):
        text = policy.processor.apply_chat_template(list(item.prompt), add_generation_prompt=True)
        inputs = policy.processor(text=[text], images=list(item.images) or None, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        for _ in range(TOKENS):
            logits = policy.model(**inputs).logits[0, -1]
            logits[forbidden] = -torch.inf
            token = logits.argmax().view(1, 1)
            if token.item() == policy.processor.tokenizer.eos_token_id:
                break
            inputs["input_ids"] = torch.cat([inputs["input_ids"], token], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(token)], dim=1)
        completion = inputs["input_ids"][0, length:]
        assert generation.text == policy.processor.tokenizer.decode(completion, skip_special_tokens=True)
        assert generation.n_tokens == len(completion)
        assert generation.truncated == (len(completion) == TOKENS)
    assert len({generation.text for generation in generations}) > 3


def test_batch_and_order_change_nothing(policy):
    together = complete(policy)
    assert complete(policy, batch_size=1) == together
    assert complete(policy, ITEMS[::-1], batch_size=2) == together[::-1]
    assert complete(policy, []) == []


def test_sampling_is_seeded_and_leaves_the_random_state_alone(policy):
    def sample(seed):
        return [completion.text for completion in complete(policy, temperature=1.0, seed=seed)]

    before = torch.get_rng_state()
    first = sample(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert sample(1) == first
    assert sample(2) != first


def test_batches_use_different_random_numbers(policy):
    """A generator on a CPU ignores all but 32 bits of its seed."""
    texts = [completion.text for completion in complete(policy, [ITEMS[0]] * 8, batch_size=2, temperature=1.0)]
    assert len(set(texts)) > 4


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-6])
def test_a_temperature_too_small_to_divide_by_is_greedy(policy, temperature):
    assert complete(policy, ITEMS[:2], temperature=temperature) == complete(policy, ITEMS[:2])


def test_image_tokens_are_never_generated(policy):
    forbidden = vision_token_ids(policy.model)
    bias(policy, forbidden, 1000.0)
    inputs = torch.tensor([[1, 2, 3]])
    assert set(policy.model.generate(inputs, max_new_tokens=3, do_sample=False)[0, 3:].tolist()) <= set(forbidden)
    for temperature in (0.0, 1.0):
        for generation in complete(policy, temperature=temperature):
            assert generation.n_tokens == TOKENS
            assert generation.text


def test_end_token_closes_a_completion(policy):
    bias(policy, [policy.processor.tokenizer.eos_token_id], 1000.0)
    for generation in complete(policy):
        assert (generation.text, generation.n_tokens, generation.truncated) == ("", 0, False)


def test_settings_shipped_with_a_checkpoint_do_not_apply(policy):
    expected = complete(policy)
    shipped = {"do_sample": True, "temperature": 9.0, "top_k": 3, "repetition_penalty": 7.0, "max_length": 5}
    for name, value in shipped.items():
        setattr(policy.model.generation_config, name, value)
    assert complete(policy) == expected


def test_misuse_is_named(policy):
    lone = GenerationInput(prompt=ITEMS[0].prompt)
    with pytest.raises(UserError, match="Item 1 has 1 image placeholders in its prompt and 0 images"):
        complete(policy, [ITEMS[0], lone])
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        GenerationSettings(max_new_tokens=0)
    for temperature in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="temperature is"):
            GenerationSettings(temperature=temperature)
    with pytest.raises(UserError, match="batch_size is 0"):
        LocalGenerator(policy=policy, batch_size=0)
