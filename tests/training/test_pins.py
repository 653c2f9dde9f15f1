"""What this package overrides and reads of TRL and transformers without a promise of theirs.

Where one of these tests fails after an update, read what changed, bring the trainer in line, and pin the new form.
"""

import ast
import inspect
from pathlib import Path

import accelerate.state
import pytest
import transformers
import transformers.core_model_loading
import trl.generation.vllm_generation
import trl.trainer.grpo_trainer
from torch.distributed.fsdp._fully_shard import _fsdp_state as fully_sharded_state
from torch.distributed.fsdp._fully_shard import _fully_shard as fully_sharded
from transformers.generation import utils as generation
from trl import GRPOTrainer, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration

import medvlm_r1
from medvlm_r1.training import grpo, sft, vllm

_ROWS = "inputs: list[dict[str, torch.Tensor | typing.Any]]"
_BATCH = "dict[str, torch.Tensor | typing.Any]"
SHARED = {
    "_get_grad_norm": "(self, model, grad_norm=None)",
    "_get_output_dir": "(self, trial: 'optuna.Trial | dict[str, Any] | None') -> str",
    "_load_best_model": "(self) -> None",
    "_load_from_checkpoint": (
        "(self, resume_from_checkpoint: str, model: torch.nn.modules.module.Module | None = None) -> None"
    ),
    "_push_from_checkpoint": "(self, checkpoint_folder: str) -> None",
    "_save": "(self, output_dir: str | None = None, state_dict: dict | None = None) -> None",
    "_save_checkpoint": "(self, model, trial)",
}
GRPO = SHARED | {
    "_calculate_rewards": "(self, inputs, prompts, completions, completion_ids_list)",
    "_compute_loss": "(self, model, inputs)",
    "_generate": "(self, prompts: list)",
    "_generate_and_score_completions": f"(self, {_ROWS}) -> {_BATCH}",
    "_generate_single_turn": "(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False)",
    "_get_per_token_logps_and_entropies": (
        "(self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, "
        "compute_aux_loss=False, pixel_values=None, image_grid_thw=None, num_images=None, pixel_attention_mask=None, "
        "spatial_shapes=None, num_tiles=None, image_sizes=None, token_type_ids=None, mm_token_type_ids=None, "
        "image_position_ids=None) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]"
    ),
    "_prepare_inputs": f"(self, generation_batch: {_BATCH}) -> {_BATCH}",
    "_tokenize_prompts": "(self, prompts: list)",
    "training_step": "(self, model, inputs, num_items_in_batch)",
}
SFT = SHARED | {
    "_prepare_inputs": f"(self, inputs: {_BATCH}) -> {_BATCH}",
    "_set_signature_columns_if_needed": "(self)",
    "training_step": "(self, *args, **kwargs)",
}
VLLM = {
    "_iter_named_params": "(self)",
    "_place_features": "(self, features: dict | None, prompt_ids: list[int]) -> dict | None",
    "generate": (
        "(self, prompts: list[list[int]], images: list[list | None] | None, num_generations: int, "
        "profiler: trl.extras.profiling.ProfilingContext | None = None) -> tuple"
    ),
}


@pytest.mark.parametrize(
    ("ours", "theirs", "pinned"),
    [
        (grpo._SharingTrainer, GRPOTrainer, GRPO),
        (sft._Trainer, SFTTrainer, SFT),
        (vllm.ExactVLLM, VLLMGeneration, VLLM),
    ],
    ids=["GRPO", "SFT", "vLLM"],
)
def test_overridden_methods_are_those_this_was_written_for(ours, theirs, pinned):
    classes = [cls for cls in ours.__mro__ if cls.__module__.startswith("medvlm_r1.")]
    names = {name for cls in classes for name in vars(cls) if hasattr(theirs, name) and not name.startswith("__")}
    assert {name: str(inspect.signature(getattr(theirs, name))) for name in names} == pinned


_GRPO, _TRAINER = trl.trainer.grpo_trainer, transformers.trainer
PRIVATE = {
    "_attn_implementation": transformers.configuration_utils,
    "_dist": _GRPO,
    "_pending_extra_logs": _GRPO,
    "_eos_token_tensor": generation,
    "_entropy_bonus_enabled": _GRPO,
    "_fix_param_name_to_vllm": trl.generation.vllm_generation,
    "_get_fsdp_state": fully_sharded,
    "_get_num_multimodal_tokens": transformers.models.qwen2_vl.processing_qwen2_vl,
    "_globalstep_last_logged": _TRAINER,
    "_is_vlm": _GRPO,
    "_lazy_init": fully_sharded_state,
    "_log_metric": _GRPO,
    "_logs": _GRPO,
    "_pad_token_tensor": generation,
    "_prepare_backend": accelerate.state,
    "_signature_columns": _TRAINER,
    "_tokenizer": _GRPO,
    "_total_train_tokens": trl.trainer.sft_trainer,
    "_tr_loss": _TRAINER,
    "_update_model_kwargs_for_generation": generation,
    "_weight_conversions": transformers.core_model_loading,
}
"""Private attributes that are read, and the module that defines them."""
WRITTEN = ("_buffered_inputs", "_metrics", "_step")
"""Private attributes of TRL's GRPO trainer that are written or shared with it, under names of ours."""


def test_private_names_are_those_of_the_libraries():
    for name, module in [*PRIVATE.items(), *((name, _GRPO) for name in WRITTEN)]:
        assert f".{name}" in inspect.getsource(module) or f"def {name}" in inspect.getsource(module), name


def test_every_private_name_is_pinned():
    used, own = set(), set()
    for folder in ("training", "models/sharing", "models/decoding"):
        for file in (Path(medvlm_r1.__file__).parent / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute):
                    of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                    (own if of_self and isinstance(node.ctx, ast.Store) else used).add(node.attr)
                elif isinstance(node, ast.FunctionDef):
                    own.add(node.name)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    own.add(node.target.id)
    foreign = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    # Public names of torch (its subclassing interface) and of named tuples.
    assert foreign - {"_C", "_make_subclass", "_asdict"} == PRIVATE.keys()
