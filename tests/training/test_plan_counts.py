"""Counts of the plan compared with real models of the recipes' classes: parameters, tokens, activations."""

import contextlib

import pytest
import torch
from PIL import Image
from questions import write_questions

from medvlm_r1.data.folder import read_folder
from medvlm_r1.models.load import load_policy
from medvlm_r1.prompts.templates import messages
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dry_run.memory import keys_bytes, text_bytes, tower_bytes
from medvlm_r1.training.dry_run.settings import Run
from medvlm_r1.training.dry_run.shape import SHORTEST, measure, read_shape, shortest_answer
from medvlm_r1.training.loop import lora_config
from plan_models import write_model

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def config(**changes):
    base = {"model": "x", "method": "sft", "data": {"train": "x"}, "out": "x", **changes}
    return RunConfig.model_validate(base)


def real(folder, attention="eager"):
    return load_policy(str(folder), device="cpu", model_init={"attn_implementation": attention}).model


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_real_model(kind, folders):
    model = real(folders[kind])
    shape = read_shape(folders[kind], config())
    assert shape.family == kind
    assert shape.parameters.total == sum(p.numel() for p in model.parameters())
    assert shape.parameters.trained == shape.parameters.total
    assert shape.parameters.adapters == 0
    assert shape.parameters.largest < shape.parameters.total


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_those_of_peft(kind, folders):
    from peft import get_peft_model

    given = config(lora={"r": 4, "target_modules": ["q_proj", "o_proj", "qkv"]})
    model = get_peft_model(real(folders[kind]), lora_config(given))
    shape = read_shape(folders[kind], given)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained > 0
    assert shape.parameters.trained == shape.parameters.adapters == trained
    assert shape.parameters.total == sum(p.numel() for p in model.parameters()) - trained
    assert shape.trains_tower
    assert not shape.trains_head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", sorted(SHORTEST))
def test_tokens_are_the_processors(kind, template, folders, tmp_path):
    sizes = [(40, 30), (30, 40), (400, 300), (61, 250), (28, 28)]
    # The first question has two images.
    images = [[Image.new("RGB", size, (9, 90, 160))] * (1 if index else 2) for index, size in enumerate(sizes)]
    texts = ["Which organ is shown?" * (index + 1) for index in range(len(sizes))]
    samples = read_folder(write_questions(tmp_path, images, question=texts))
    policy = load_policy(str(folders[kind]), device="cpu")
    processor = policy.processor
    processor.image_processor.size["longest_edge"] = 112 * 112
    prompts = measure(processor, str(tmp_path), samples, template)
    for index, sample in enumerate(samples):
        text = processor.apply_chat_template(messages(sample, template), add_generation_prompt=True, tokenize=False)
        images = [Image.open(tmp_path / name) for name in sample.images]
        given = processor(text=[text], images=images, return_tensors="pt")
        assert prompts.tokens[index] == given["input_ids"].shape[1]
        assert prompts.image_tokens[index] == int((given["input_ids"] == policy.model.config.image_token_id).sum())
        assert list(prompts.patches[index]) == given["image_grid_thw"].prod(dim=1).tolist()


def test_the_shortest_answers_earn_the_format_rewards(folders):
    from medvlm_r1.prompts.templates import TEMPLATES
    from medvlm_r1.rewards import resolve_reward

    assert SHORTEST.keys() == TEMPLATES.keys()
    rewards = {"medvlm-r1": "format_paper", "no-think": "medvlm_r1.rewards.format_no_think:format_no_think"}
    for template, name in rewards.items():
        others = [text for text in SHORTEST.values() if text != SHORTEST[template]]
        given = [SHORTEST[template], *others, SHORTEST[template] * 2]
        scores = resolve_reward(name)(prompts=[""] * len(given), completions=given, letter=["A"] * len(given))
        assert scores[0] == 1.0
        assert scores[1 : len(others) + 1] == [0.0] * len(others)
    processor = load_policy(str(folders["qwen2_vl"]), device="cpu").processor
    text, tokens = shortest_answer(processor, "medvlm-r1")
    assert tokens == len(processor.tokenizer(text + "<|im_end|>")["input_ids"])


def _kept(run, model):
    """Bytes that autograd keeps of a forward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for storage in seen.values())


_SIZES = {"samples": 1, "rows": 1, "accumulation": 1, "group": 1, "passes_per_generation": 1, "completion": 1}
PRECISIONS = {
    "float32": Run(weights=4, compute=4, **_SIZES),
    "autocast": Run(weights=4, compute=2, **_SIZES),
    "half": Run(weights=2, compute=2, **_SIZES),
    "adapters": Run(weights=2, compute=2, adapters=True, **_SIZES),
}


def _linear_weights(layer):
    return sum(module.weight.numel() for module in layer.modules() if isinstance(module, torch.nn.Linear))


def _wide(kind, depth, name, folders):
    """A model with layers wide enough that what goes with their width stands out."""
    import json

    from transformers import AutoConfig, AutoModelForImageTextToText

    settings = json.loads((folders[kind] / "config.json").read_text())
    settings["text_config"] |= {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_hidden_layers": depth,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }
    settings["text_config"].pop("layer_types", None)
    if kind == "qwen3_vl":
        settings["text_config"]["head_dim"] = 16
    width = {"embed_dim": 64, "mlp_ratio": 4, "hidden_size": 64} if kind == "qwen2_vl" else {"hidden_size": 64}
    settings["vision_config"] |= {**width, "intermediate_size": 192, "num_heads": 4, "depth": depth}
    settings["vision_config"]["out_hidden_size"] = 64
    settings["vision_config"] |= {"fullatt_block_indexes": list(range(depth)), "deepstack_visual_indexes": [0]}
    folder = folders[kind].parent / f"{kind}-{depth}-{name}"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    lora = {"r": 1} if name == "adapters" else None
    shape = read_shape(folder, config(lora=lora))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**settings), attn_implementation="sdpa")
    model = model.float() if PRECISIONS[name].weights == 4 else model.bfloat16()
    if lora:
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(config(lora=lora))).get_base_model()
    context = contextlib.nullcontext() if name == "float32" else torch.autocast("cpu", torch.bfloat16)
    return model.train(), context, shape


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_what_autograd_keeps(kind, name, folders):
    """The difference of two depths, so that what is kept outside the layers falls out."""
    run = PRECISIONS[name]
    text, tower = [], []
    tokens, side = 256, 16
    for depth in (1, 2):
        model, context, shape = _wide(kind, depth, name, folders)
        dtype = torch.float32 if run.weights == 4 else torch.bfloat16
        embeds = torch.randn(1, tokens, 64, dtype=dtype, requires_grad=True)
        pixels = torch.randn(side * side, 3 * 2 * 14 * 14, dtype=dtype)
        language, visual = model.model.language_model, model.model.visual
        with context:
            text.append(_kept(lambda lm=language, x=embeds: lm(inputs_embeds=x, use_cache=False), model))
            tower.append(_kept(lambda v=visual, x=pixels: v(x, torch.tensor([[1, side, side]])), model))
    copies = [0, 0]
    if name == "autocast":  # of the linear layers of the second layer
        copies = [2 * _linear_weights(layers[1]) for layers in (language.layers, visual.blocks)]
    expected = tokens * (text_bytes(shape, run) + keys_bytes(shape, run))
    # Adapters keep a few bytes for each of their ranks, and copies of their own weights.
    near = 0.1 if name == "adapters" else 0.03
    assert text[1] - text[0] - copies[0] == pytest.approx(expected, rel=near)
    expected = side * side * tower_bytes(shape, run)
    # A GPU keeps a float32 copy of a layer norm's input, twice 2 bytes more than a CPU.
    if shape.tower_norm == "layer" and name != "float32":
        expected -= side * side * 4 * shape.tower_width
    assert tower[1] - tower[0] - copies[1] == pytest.approx(expected, rel=near)
