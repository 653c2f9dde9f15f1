"""Mixed precision through the trainer, on a CPU: casts of weights, and sharing against TRL within bf16 rounding."""

from collections import Counter

import pytest
import torch
from operations import Operations
from test_sharing import trained
from trl import GRPOTrainer

from medvlm_r1.models.sharing.batch import SharedBatch
from medvlm_r1.training.grpo import SharedPromptTrainer


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_generation_casts_each_weight_once(train, tmp_path, monkeypatch, sharing):
    counts = []
    plain = GRPOTrainer._generate_single_turn

    def generate(self, *args):
        weights = Counter(tuple(weight.shape) for weight in self.model.parameters() if weight.ndim == 2)
        with Operations() as operations:
            result = plain(self, *args)
        assert max(map(len, result[0])) == self.max_completion_length
        casts = Counter(operations.casts(torch.bfloat16))
        counts.append({shape: casts[shape] for shape in weights})
        # Prefill and tower may cast activations of these shapes.
        assert sum(counts[-1].values()) <= 1.5 * sum(weights.values())
        return result

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    for tokens in (4, 12):
        trainer = {"use_cpu": True, "bf16": True, "max_steps": 1, "save_strategy": "no"}
        trainer |= {"max_completion_length": tokens, "generation_kwargs": {"min_new_tokens": tokens}}
        train(sharing=sharing, trainer=trainer, out=str(tmp_path / str(tokens)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("changes", [{}, {"lora": True}, {"gradient_checkpointing": True, "entropy_coef": 0.1}])
def test_sharing_gives_the_steps_of_trl_within_rounding(policy_dir, dataset, tmp_path, monkeypatch, changes):
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    monkeypatch.setattr(SharedBatch, "shuffled", lambda self: list(range(len(self.owner))))
    options = {"lora": False, "bf16": True, "beta": 0.04, **changes}
    moves, logs = [], []
    for kind in (GRPOTrainer, SharedPromptTrainer):
        trainer, before, after = trained(kind, policy_dir, dataset, tmp_path, **options)
        moves.append(torch.cat([(after[name] - weight).flatten() for name, weight in before.items()]))
        logs.append(trainer.state.log_history[0])
    plain, shared = moves
    assert (shared - plain).norm() <= 0.03 * plain.norm()
    for name in ("loss", "grad_norm", "kl", "reward"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=0.03, abs=1e-3), name


def test_the_shared_forward_runs_in_bf16_under_the_wrapper_of_accelerate(policy_dir, dataset, tmp_path, monkeypatch):
    seen = {"head": set(), "logps": set()}
    plain = SharedPromptTrainer._get_per_token_logps_and_entropies

    def logps(self, model, *args, **kwargs):
        layer = self.model.model.language_model.layers[0].mlp.down_proj
        handle = layer.register_forward_hook(lambda _, inputs, output: seen["head"].add(output.dtype))
        result = plain(self, model, *args, **kwargs)
        handle.remove()
        seen["logps"].add(result[0].dtype)
        return result

    monkeypatch.setattr(SharedPromptTrainer, "_get_per_token_logps_and_entropies", logps)
    trainer, _, after = trained(SharedPromptTrainer, policy_dir, dataset, tmp_path, lora=False, bf16=True, max_steps=1)
    assert type(trainer) is SharedPromptTrainer
    assert seen == {"head": {torch.bfloat16}, "logps": {torch.float32}}
    assert {weight.dtype for weight in after.values()} == {torch.float32}
