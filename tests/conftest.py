"""A tiny random Qwen2-VL and a small data folder, made once per test session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# One thread is the fastest for models this small, and keeps runs equal from machine to machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

CORPUS = [
    "Which imaging modality was used? Which organ is shown? Is there a lesion in the left lung of this patient?",
    "A) MRI B) CT C) X-ray D) Ultrasound. A) liver B) kidney C) brain D) knee. A) yes B) no",
    "Your task: Think through the question step by step, enclose your reasoning process in <think>...</think> tags.",
    "Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.",
    "No extra information or text outside of these tags. Answer with the option's letter only.",
]
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_policy(folder: Path) -> None:
    """Write a Qwen2-VL of a few thousand random weights, with its tokenizer, image processor and chat template."""
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

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {token: fast.convert_tokens_to_ids(token) for token in SPECIAL}
    pixels = {"size": {"shortest_edge": 28 * 28, "longest_edge": 56 * 56}}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
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
            },
            vision_config={"depth": 1, "embed_dim": 8, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2},
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=False,
        )
    )
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_policy_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Qwen2-VL; do not write into it."""
    folder = tmp_path_factory.mktemp("policy")
    build_tiny_policy(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of eight questions (four MRI, four CT), each with an image; do not write into it."""
    from PIL import Image

    from medvlm_r1.data.folder import write_folder
    from medvlm_r1.data.sample import Sample

    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    samples = []
    for index in range(8):
        image = f"images/{index}.png"
        Image.new("RGB", (40, 30), (30 * index, 90, 160)).save(folder / image)
        samples.append(
            Sample(
                id=f"q{index}",
                images=(image,),
                question="Which organ is shown?",
                options=("liver", "kidney", "brain", "knee"),
                answer=("liver", "kidney", "brain", "knee")[index % 4],
                modality="MRI" if index < 4 else "CT",
            )
        )
    write_folder(folder, samples, info={"name": "tiny", "source": "made by the tests", "license": "CC0-1.0"})
    return folder


@pytest.fixture
def write_config(tmp_path: Path, tiny_policy_dir: Path, data_dir: Path) -> Callable[..., Path]:
    """A function that writes a training configuration of two short steps, changed by its arguments."""
    import yaml

    def write(method: str = "grpo", **changes: Any) -> Path:
        trainer: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-3, "report_to": "none"}
        config: dict[str, Any] = {
            "model": str(tiny_policy_dir),
            "method": method,
            "data": {"train": str(data_dir)},
            "out": str(tmp_path / "run"),
            "trainer": trainer,
        }
        if method == "grpo":
            config["rewards"] = [{"name": "accuracy_paper"}, {"name": "format_paper", "weight": 0.5}]
            trainer |= {
                "beta": 0.04,
                "per_device_train_batch_size": 4,
                "num_generations": 2,
                "max_completion_length": 6,
            }
        else:
            trainer["per_device_train_batch_size"] = 4
        trainer |= changes.pop("trainer", {})
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config | changes))
        return file

    return write


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs `medvlm-r1` with arguments in this process; gives exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from medvlm_r1 import cli

        monkeypatch.setattr(sys, "argv", ["medvlm-r1", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
