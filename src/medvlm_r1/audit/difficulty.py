"""Estimate the difficulty of a data folder for a model: the pass rate of each sample (`data.difficulty`).

The completions are sampled as in GRPO (no top-k or top-p) and scored as in an evaluation. They come from the backends
of a model audit, which run the prompt of a sample once for all its completions.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medvlm_r1.audit.backends import open_audit_backend
from medvlm_r1.audit.collect import even_parts
from medvlm_r1.audit.runner import ITEMS_AT_ONCE, REQUESTS
from medvlm_r1.audit.variant import Variant
from medvlm_r1.data.difficulty import DifficultyFile, PassRate, histogram
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import identify, require_positive
from medvlm_r1.evaluation.score import Graded, grade
from medvlm_r1.evaluation.statistics import wilson
from medvlm_r1.evaluation.store import AnswerKey, answer_key, load_row_images, present_rows
from medvlm_r1.models.generate import Generation, GenerationSettings
from medvlm_r1.models.remote import is_server


def estimate_difficulty(
    model: str,
    data_dir: Path | str,
    settings: GenerationSettings,
    *,
    samples: int = 16,
    limit: int | None = None,
    batch_size: int | None = None,
    template: str = "medvlm-r1",
    dtype: str = "auto",
    skip_missing: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Estimate the pass rate of every sample, and append it to `difficulty.jsonl`. Repeat the same call to resume.

    Args:
        model: A folder, a Hub id, "phantom-base", or "openai:URL#NAME" for a model on a server.
        data_dir: A data folder.
        settings: Token limit, temperature (above 0) and seed. Two seeds share no random numbers if `samples` is equal.
        samples: Number of completions of each sample.
        limit: Estimate at most N samples; all by default.
        batch_size: Number of samples per batch, or of concurrent requests to a server.
        template: Name of the prompt template.
        dtype: Dtype of a local model, as in `load_policy`.
        skip_missing: Exclude and count rows whose images are missing, instead of stopping.
        progress: Called with the number of samples that have a pass rate, and the total.

    Returns:
        `file`, the number of pass rates `n`, their `mean` in percent, the percentage of completions `cut_off`, the
        number of excluded rows `n_missing`, and the `histogram`.

    Raises:
        UsageError: An argument is out of range.
        UserError: The data or the model cannot be used, a server does not reply, or the file has pass rates of another
            model, other data or other settings.
    """
    data_dir = Path(data_dir)
    require_positive(samples=samples, limit=limit, batch_size=batch_size)
    selected = list(enumerate(read_folder(data_dir), start=1))[:limit]
    rows = present_rows(data_dir, selected, skip_missing, None if is_server(model) else model)
    identity = identify(model, dtype=dtype)
    at_once = batch_size or (REQUESTS if is_server(model) else ITEMS_AT_ONCE)
    backend = open_audit_backend(model, template, settings.max_new_tokens, at_once, dtype)
    with DifficultyFile(data_dir) as store:
        done = 0
        for batch in even_parts(len(rows), at_once):
            keys: dict[str, AnswerKey] = {}
            variants = []
            for row in (rows[index] for index in batch):
                sample, images = row[1], tuple(load_row_images(data_dir, row))
                keys[sample.id] = answer_key(identity, sample, images, template, settings)
                if sample.id in store.rates:
                    _check_stored(store, sample, keys[sample.id], samples)
                    done += 1
                    continue
                changes: dict[str, Any] = {"sample": sample, "images": images, "temperature": settings.temperature}
                seeds = range(settings.seed * samples, (settings.seed + 1) * samples)
                variants += [Variant(name=f"sample-{seed}", seed=seed, **changes) for seed in seeds]
            graded: dict[str, list[Graded]] = defaultdict(list)
            progress(done, len(rows))
            for answers in backend.iterate(variants):
                for index, answer in answers:
                    sample = variants[index].sample
                    generation = Generation(text=answer.text, n_tokens=answer.n_tokens, truncated=answer.truncated)
                    graded[sample.id].append(grade(sample, generation, template))
                    if len(graded[sample.id]) == samples:
                        store.append(_pass_rate(graded[sample.id], keys[sample.id], model, template))
                        done += 1
                progress(done, len(rows))
    rates = [store.rates[sample.id] for _, sample in rows]
    return {
        "file": str(store.path),
        "n": len(rates),
        "mean": 100 * sum(rate.value for rate in rates) / len(rates),
        "cut_off": 100 * sum(rate.cut_off for rate in rates) / (samples * len(rates)),
        "n_missing": len(selected) - len(rows),
        "histogram": histogram(rates),
    }


def _pass_rate(graded: list[Graded], key: AnswerKey, model: str, template: str) -> PassRate:
    sample, correct = graded[0].sample, sum(answer.correct for answer in graded)
    return PassRate(
        id=sample.id,
        answer=sample.answer,
        correct=correct,
        samples=len(graded),
        ci95=wilson(correct, len(graded)),
        cut_off=sum(answer.generation.truncated for answer in graded),
        model=model,
        template=template,
        key=asdict(key),
    )


def _check_stored(store: DifficultyFile, sample: Sample, key: AnswerKey, samples: int) -> None:
    """Refuse a stored pass rate that was estimated with another model, data or settings."""
    rate = store.rates[sample.id]
    then = {**rate.key, "samples": rate.samples, "correct answer": rate.answer}
    now = {**asdict(key), "samples": samples, "correct answer": sample.answer}
    differences = [
        f"another {name} (then {str(then.get(name))[:12]}, now {str(value)[:12]})"
        for name, value in now.items()
        if then.get(name) != value
    ]
    if differences:
        raise UserError(
            f"{store.path}: the pass rate of {sample.id!r} was estimated with {', '.join(differences)}; use the same "
            "settings to resume, or delete or rename the file to start again"
        )
