"""A stand-in for vLLM that reads prompts as vLLM does and completes them with transformers.

Images go through the processor in the model's own folder. A colocated engine replaces one image token per image by the
tokens of that image (vLLM's prompt updates); a server takes expanded prompts with features. Log-probabilities are those
of the weights that were synchronized, so they equal the policy's for equal prompts, images and weights.

As a script it is a run under a launcher: `fake_vllm.py CONFIG OUT MODEL OVERRIDE...`. A blank answer is then its whole
text, because policies of random weights answer with no letter.
"""

import os
import sys
from types import SimpleNamespace

import torch

from medvlm_r1.models.load import load_policy, vision_token_ids

SENT = []
"""Ids and images of every prompt that an engine was given."""
CALLS = []
"""The temperature of each prompt, for every call of an engine or of the client of a server."""


class Engine:
    """vLLM's `LLM`, and the model behind its server."""

    def __init__(self, model, **_):
        policy = load_policy(model, dtype="float32", device="cpu")
        self.model, self.processor = policy.model, policy.processor
        self.image_token = self.model.config.image_token_id
        self.forbidden = vision_token_ids(self.model, self.processor)
        runner = SimpleNamespace(model=self)
        worker = SimpleNamespace(model_runner=runner)
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def load_weights(self, named):
        for name, weight in named:
            self.model.get_parameter(name).data.copy_(weight)

    def reset_prefix_cache(self):
        pass

    def features(self, images):
        return dict(self.processor.image_processor(images=images, return_tensors="pt")) if images else {}

    def lengths(self, features):
        merged = self.processor.image_processor.merge_size**2
        return [int(grid.prod()) // merged for grid in features.get("image_grid_thw", ())]

    def generate(self, prompts, sampling_params, use_tqdm):
        requests = []
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        CALLS.append([settings.temperature for settings in each])
        for prompt, settings in zip(prompts, each, strict=True):
            images = prompt.get("multi_modal_data", {}).get("image", [])
            images = images if isinstance(images, list) else [images]
            features, ids = self.features(images), list(prompt["prompt_token_ids"])
            SENT.append((ids, images))
            position = 0
            for length in self.lengths(features):
                position = ids.index(self.image_token, position)
                ids[position : position + 1] = [self.image_token] * length
                position += length
            requests.append(self.complete(ids, features, settings))
        return requests

    def complete(self, ids, features, settings):
        completions = []
        for _ in range(settings.n):
            row, tokens, logprobs = torch.tensor([ids]), [], []
            while len(tokens) < settings.max_tokens:
                # A prompt that was read wrongly has features left over, which vLLM does not notice.
                fits = ids.count(self.image_token) == sum(self.lengths(features))
                seen = {"mm_token_type_ids": (row == self.image_token).int(), **features} if fits else {}
                with torch.no_grad():
                    logits = self.model(input_ids=row, **seen).logits[0, -1] / (settings.temperature or 1.0)
                allowed = logits.index_fill(0, torch.tensor(self.forbidden), -torch.inf).softmax(-1)
                token = int(torch.multinomial(allowed, 1) if settings.temperature else allowed.argmax())
                tokens.append(token)
                logprobs.append({token: SimpleNamespace(logprob=float(logits.log_softmax(-1)[token]), rank=1)})
                row = torch.cat([row, torch.tensor([[token]])], dim=1)
                if token == self.model.generation_config.eos_token_id:
                    break
            completions.append(SimpleNamespace(token_ids=tokens, logprobs=logprobs))
        return SimpleNamespace(prompt_token_ids=ids, outputs=completions)


class Client:
    """TRL's `VLLMClient` with its server."""

    served = ""
    """The model of the server."""

    def __init__(self, **_):
        self.engine = Engine(self.served)

    def init_communicator(self, device):
        pass

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def update_named_params(self, metadata, named):
        self.engine.load_weights(list(named))

    def reset_prefix_cache(self):
        pass

    def image_features(self, images):
        rows = []
        for row in images:
            tensors = self.engine.features(row or [])
            runs = [{"offset": 0, "length": length} for length in self.engine.lengths(tensors)]
            rows.append({"tensors": tensors, "images": row, "mm_placeholders": {"image": runs}} if row else None)
        return rows

    def generate(self, prompts, features, **settings):
        requests = []
        CALLS.append([settings["temperature"]] * len(prompts))
        for ids, feature in zip(prompts, features or [None] * len(prompts), strict=True):
            SENT.append((ids, feature["images"] if feature else []))
            tensors = feature["tensors"] if feature else {}
            requests.append(self.engine.complete(ids, tensors, SimpleNamespace(**settings)))
        rows = [row for request in requests for row in request.outputs]
        return {
            "prompt_ids": prompts,
            "completion_ids": [row.token_ids for row in rows],
            "logprobs": [[[entry.logprob for entry in token.values()] for token in row.logprobs] for row in rows],
        }


def install(replace):
    """Install the stand-in in TRL.

    Args:
        replace: Sets an attribute of a module: `setattr`, or the one of a `MonkeyPatch`.
    """
    from trl.generation import vllm_generation

    replace(vllm_generation, "is_vllm_available", lambda: True)
    replace(vllm_generation, "VLLMClient", Client)
    for name, value in {"LLM": Engine, "SamplingParams": SimpleNamespace}.items():
        vllm_generation.__dict__.setdefault(name, None)
        replace(vllm_generation, name, value)


def main(config, out, model, *overrides):
    from benchmarks.engines import shard_on_cpus
    from medvlm_r1.training import counterfactual
    from medvlm_r1.training.config import load_config
    from medvlm_r1.training.grpo import train_grpo

    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    counterfactual.strict_letter = lambda text: text
    Client.served = model
    install(setattr)
    train_grpo(load_config(config, [f"out={out}", *overrides]))


if __name__ == "__main__":
    main(*sys.argv[1:])
