"""Greedy texts of written models in vLLM: `reload_run.py REQUESTS REPLIES`, with the interpreter of vLLM's environment.

REQUESTS is a JSON file with the `models`, and the `prompts`, each a text and the path of its image. The engine starts
with the first model and loads the weights of the others. REPLIES gets the `tokens` and their `logprobs` for each model
and prompt.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    from PIL import Image
    from vllm import LLM, SamplingParams

    requests = json.loads(Path(sys.argv[1]).read_text())
    engine = LLM(
        requests["models"][0],
        dtype="float32",
        max_model_len=1024,
        max_num_batched_tokens=8192,
        enable_chunked_prefill=False,
        enforce_eager=True,
        generation_config="vllm",
    )
    prompts = [
        {"prompt": text, "multi_modal_data": {"image": Image.open(image).convert("RGB")}}
        for text, image in requests["prompts"]
    ]
    settings = SamplingParams(temperature=0.0, max_tokens=requests["max_tokens"], logprobs=0)
    replies = []
    for model in requests["models"]:
        engine.collective_rpc("reload_weights", kwargs={"weights_path": model})
        # The scheduler's record of what the worker has forgotten.
        engine.reset_prefix_cache()
        engine.llm_engine.reset_encoder_cache()
        outputs = [output.outputs[0] for output in engine.generate(prompts, settings)]
        replies.append(
            [
                {
                    "tokens": list(output.token_ids),
                    "logprobs": [
                        step[token].logprob for token, step in zip(output.token_ids, output.logprobs, strict=True)
                    ],
                }
                for output in outputs
            ]
        )
    Path(sys.argv[2]).write_text(json.dumps(replies))
