"""Probabilities of the option letters as the next token after an assistant prefill."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.models.generate import GenerationInput, check_images, prompt_and_prefill
from medvlm_r1.models.load import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterPlace:
    """The token position at which the model chooses an option letter after an assistant prefill.

    Attributes:
        context: Token ids of the prefill up to that position. A tokenizer may merge the end of the prefill with the
            letter (into `>B`, for example). The context is then shorter than the prefill.
        candidates: Token id of each letter at that position, starting with A.
    """

    context: tuple[int, ...]
    candidates: tuple[int, ...]


def letter_place(tokenizer: Any, prefill: str, n_options: int) -> LetterPlace:
    """Find the first token position at which the option letters after `prefill` differ.

    Args:
        tokenizer: The policy's tokenizer.
        prefill: The assistant prefill.
        n_options: Number of options, 1 to 10.

    Raises:
        ValueError: Two letters have the same token at that position, so the next token does not distinguish them.
    """
    # A single letter has nothing to differ from, so it is compared with the next letter.
    offered = LETTERS[: max(2, n_options)]
    endings = tokenizer([prefill + letter for letter in offered], add_special_tokens=False)["input_ids"]
    shortest = min(map(len, endings))
    parting = next((i for i in range(shortest) if len({ids[i] for ids in endings}) > 1), shortest)
    candidates = tuple(ids[parting] for ids in endings if parting < len(ids))
    if len(set(candidates)) < len(offered):
        raise ValueError(f"the tokenizer does not tell the letters A to {offered[-1]} apart by one token")
    return LetterPlace(context=tuple(endings[0][:parting]), candidates=candidates[:n_options])


def letter_probabilities(
    policy: Policy, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
) -> list[tuple[float, ...]]:
    """Next-token probability of each option letter, normalized over the option letters.

    Args:
        policy: The policy.
        items: Conversations with their images; their own `prefill` is ignored.
        prefills: The assistant prefill of each item, which usually ends in `<answer>`.
        n_options: Number of options of each item.

    Returns:
        For each item, one probability per letter, starting with A. They sum to 1.

    Raises:
        UserError: The number of images of an item differs from the number of its image placeholders.
        ValueError: Two letters have the same next token; see `letter_place`.
    """
    import torch

    for index, item in enumerate(items):
        check_images(index, item)
    processor = policy.processor
    prompts = [prompt_and_prefill(processor, replace(item, prefill=p)) for item, p in zip(items, prefills, strict=True)]
    positions = [letter_place(processor.tokenizer, p, n) for (_, p), n in zip(prompts, n_options, strict=True)]
    results: list[tuple[float, ...]] = []
    with torch.inference_mode():
        # Items run one at a time without padding, so an item has the same probabilities in any batch.
        for item, (text, _), position in zip(items, prompts, positions, strict=True):
            inputs = processor(text=[text], images=list(item.images) or None, return_tensors="pt")
            context = torch.tensor([position.context], dtype=inputs["input_ids"].dtype)
            longer = {"input_ids": context, "attention_mask": torch.ones_like(context)}
            # Token types: 0 is text.
            longer |= {name: torch.zeros_like(context) for name in inputs if name.endswith("token_type_ids")}
            for name, more in longer.items():
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
            logits = policy.model(**inputs.to(policy.model.device), logits_to_keep=1, use_cache=False).logits[0, -1]
            chosen = torch.softmax(logits[list(position.candidates)].double(), dim=0)
            results.append(tuple(chosen.tolist()))
    return results
