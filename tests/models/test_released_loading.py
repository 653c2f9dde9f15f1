"""The way the released model is loaded works on this project's folders, in a process that never sees this package.

The released MedVLM-R1 is used with transformers alone: `Qwen2VLForConditionalGeneration`, `AutoProcessor`, the chat
template over an image and the question, greedy, up to 1024 new tokens.
"""

import json
import subprocess
import sys

import pytest

from medvlm_r1.data import load_image, read_folder
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import PHANTOM_BASE, load_policy, phantom_base_dir
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.prompts.templates import messages, render_prompt
from medvlm_r1.report.export import export
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo

RELEASED = """
import json, sys
from PIL import Image
from transformers import AutoProcessor, GenerationConfig, Qwen2VLForConditionalGeneration

folder, questions = sys.argv[1], json.load(sys.stdin)
model = Qwen2VLForConditionalGeneration.from_pretrained(folder, local_files_only=True).float().eval()
processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
config = GenerationConfig(max_new_tokens=1024, do_sample=False, pad_token_id=processor.tokenizer.pad_token_id)
texts = []
for path, question in questions:
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(path).convert("RGB")], padding=True, return_tensors="pt")
    output = model.generate(**inputs, use_cache=True, generation_config=config)
    trimmed = [row[len(given) :] for given, row in zip(inputs.input_ids, output)]
    texts += processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)
assert not [name for name in sys.modules if name.startswith(("medvlm", "trl", "peft"))]
print(json.dumps(texts))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_benchmark(folder, split="test", modalities=["MRI", "CT"], n=2)
    return folder


@pytest.fixture(params=["embedded base", "trained"])
def folder(request, data, write_config, tmp_path):
    """The embedded base, or what two steps of GRPO make of it: adapters, merged, exported."""
    if request.param == "embedded base":
        return phantom_base_dir()
    trainer = {"max_completion_length": 64, "learning_rate": 1e-4}
    config = write_config(model=PHANTOM_BASE, data={"train": str(data)}, lora={"r": 4}, trainer=trainer)
    train_grpo(load_config(config))
    return export(tmp_path / "run", tmp_path / "published")


def test_a_model_is_loaded_as_the_released_model_is(data, folder):
    samples = read_folder(data)
    asked = [[str(data / sample.images[0]), render_prompt(sample)] for sample in samples]
    command = [sys.executable, "-I", "-c", RELEASED, str(folder)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    texts = json.loads(done.stdout.splitlines()[-1])
    items = [
        GenerationInput(prompt=messages(sample), images=[load_image(data / sample.images[0])]) for sample in samples
    ]
    generator = LocalGenerator(policy=load_policy(str(folder), device="cpu"))
    assert texts == [answer.text for answer in generator.generate(items, GenerationSettings(max_new_tokens=1024))]
    assert all(texts)
