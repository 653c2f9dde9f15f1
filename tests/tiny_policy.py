"""A Qwen2-VL of a few thousand random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CORPUS = [
    "Which imaging modality was used? Which organ is shown? Is there a lesion in the left lung of this patient?",
    "A) MRI B) CT C) X-ray D) Ultrasound. A) liver B) kidney C) brain D) knee. A) yes B) no",
    "Your task: Think through the question step by step, enclose your reasoning process in <think>...</think> tags.",
    "Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.",
    "No extra information or text outside of these tags. Answer with the option's letter only.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


OPENING = "<think>\n"


def build_tiny_policy(folder: Path, opening: str = "", *, tied: bool = False) -> None:
    """Write a Qwen2-VL of a few thousand random weights, with its tokenizer, image processor and chat template.

    Args:
        folder: Where to.
        opening: What the generation prompt ends with, as `OPENING` in the templates of reasoning models.
        tied: Whether the head has the weights of the embedding.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    from benchmarks.base.architecture import CONTROL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {token: fast.convert_tokens_to_ids(token) for token in CONTROL_TOKENS}
    pixels = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE.removesuffix("{% endif %}") + opening + "{% endif %}",
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={
                "vocab_size": len(fast),
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
                "bos_token_id": None,
                "eos_token_id": ids["<|im_end|>"],
                "pad_token_id": ids["<|endoftext|>"],
                "initializer_range": 0.5,
                "tie_word_embeddings": tied,
            },
            vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=tied,
        )
    )
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def teach(folder: Path, prompt: list[dict[str, Any]], completion: str, steps: int = 150) -> None:
    """Train a tiny policy until it writes `completion` after a prompt with one image; all images look alike to it."""
    import torch
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    model.model.visual.merger.mlp[-1].weight.data.zero_()
    text = processor.apply_chat_template(prompt, add_generation_prompt=True) + completion + "<|im_end|>"
    inputs = processor(text=[text], images=[Image.new("RGB", (40, 30))], return_tensors="pt")
    n_written = len(processor.tokenizer(completion + "<|im_end|>")["input_ids"])
    wanted = inputs["input_ids"][0, -n_written:]
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.model.language_model.parameters(), lr=1e-2)
    for _ in range(steps):
        logits = model(**inputs).logits[0, -n_written - 1 : -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, wanted).backward()
        optimizer.step()
    model.save_pretrained(folder)


def build_tiny_adapter(base: Path, folder: Path, **settings: Any) -> None:
    """Write a LoRA adapter of rank 2 on every linear layer, with random weights large enough to change answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    config = LoraConfig(
        **{"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    )
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(base, dtype="float32"), config)
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder)
