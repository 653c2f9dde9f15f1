"""Training loop of GRPO and SFT: load, train or resume, write the final model."""

import atexit
import functools
import hashlib
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import distributed

from medvlm_r1.data import Sample
from medvlm_r1.data.check import warn_of_overlap
from medvlm_r1.data.rows import drop_rows_after
from medvlm_r1.disk import sync, sync_tree
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy, forget_last_batch, image_fit, load_merged, load_policy, locate, quiet_bars
from medvlm_r1.models.processor import ImageFit
from medvlm_r1.models.sharing.batch import forget_unused_renames
from medvlm_r1.prompts.boxes import BOX_TEMPLATES
from medvlm_r1.rewards import any_asks
from medvlm_r1.training.arguments import training_arguments, warn_of_one_process
from medvlm_r1.training.callbacks import (
    AlreadyTrained,
    Evaluate,
    LastStepGuard,
    MetricsLog,
    PeriodicEvaluation,
    Progress,
    ProgressBridge,
)
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dataset import build_dataset, describe, load_samples, on_main_process, select_by_difficulty
from medvlm_r1.training.guards import Guards
from medvlm_r1.training.reliability.checkpoint import CheckpointCallback, finish_rotation
from medvlm_r1.training.reliability.guard import GracefulStop, explained, refuse_unless_finite
from medvlm_r1.training.run_folder import RunFolder, prepare_run

Build = Callable[..., Any]
"""Function that builds a TRL trainer. Its keyword arguments are `policy`, `args`, `run`, and TRL's `train_dataset`,
`eval_dataset`, `callbacks` and `peft_config`."""


def train(config: RunConfig, build: Build, *, progress: Progress | None, evaluate: Evaluate | None) -> Path:
    """Train the policy of a configuration and write the final model. Resume if an earlier call was interrupted.

    Args:
        config: The resolved configuration.
        build: Builds the TRL trainer.
        progress: Receives every step. It replaces the trainer's own progress bar and printed logs.
        evaluate: Called every `config.evaluate_every` steps.

    Returns:
        The folder of the final model.

    Raises:
        UserError: The run folder belongs to another run or is in use, the data are unusable, TRL rejects the
            configuration, a guard ended the run, or memory or disk space is exhausted.
        Preempted: SIGTERM stopped the run. The message explains how to resume.
        KeyboardInterrupt: Ctrl-C stopped the run. The message explains how to resume.
    """
    if config.evaluate_every and evaluate is None:
        raise UserError("evaluate_every is set, but this command has no evaluation to call; remove it.")
    with quiet_bars(), warnings.catch_warnings():
        # These warnings concern renamed arguments between libraries, which the user cannot change.
        warnings.simplefilter("ignore", FutureWarning)
        args = training_arguments(config)
        lock = RunFolder(Path(config.out)).locked(main=args.process_index == 0)
        with explained(config), GracefulStop() as stop, lock:
            return _train(config, args, build, progress, evaluate, stop)


def _train(
    config: RunConfig, args: Any, build: Build, progress: Progress | None, evaluate: Evaluate | None, stop: GracefulStop
) -> Path:
    main = args.process_index == 0
    warn_of_one_process(args)
    loaded, described = on_main_process(functools.partial(_load, config))
    # A complete run does not need its base model, whose image processor determines the boxes.
    datasets = {} if RunFolder(Path(config.out)).complete else _datasets(config, loaded)
    # The main process of the first machine goes first, because all machines share the folder.
    with args.main_process_first(local=False):
        new = not (Path(config.out) / "config.yaml").is_file()
        run = prepare_run(config, described)
        checkpoint = None if run.complete else run.last_checkpoint(main=main)
        if checkpoint is not None and main:
            finish_rotation(checkpoint, args.save_total_limit)
    if run.complete:
        print(f"{run.path}: this training is complete; the model is {run.model}.", file=sys.stderr)
        return run.model
    with run.beginning(new=new and main):
        policy = _policy(config)
        callbacks: list[Any] = [LastStepGuard(), MetricsLog(run.metrics)]
        if progress is not None:
            callbacks.append(ProgressBridge(progress))
            args.disable_tqdm = True
        if "tensorboard" in args.report_to:
            args.report_to.remove("tensorboard")
            callbacks.append(_tensorboard(run, checkpoint, main=main))
        evaluation = None
        if config.evaluate_every and evaluate is not None:
            evaluation = PeriodicEvaluation(config.evaluate_every, evaluate, policy)
            callbacks.insert(1, evaluation)
        _no_telemetry()
        try:
            trainer = build(
                policy=policy, args=args, run=run, callbacks=callbacks, peft_config=lora_config(config), **datasets
            )
        except (ValueError, TypeError, ImportError, NotImplementedError) as error:
            raise UserError(f"TRL refuses this configuration: {error}") from error
    if evaluation is not None:
        evaluation.attach(trainer)
    guards = Guards(trainer, stop=config.on_guard == "stop", metrics=run.metrics)
    stop.attach(trainer)
    # GracefulStop comes late, so that a signal during the other callbacks still counts for this step.
    for callback in (guards, stop, CheckpointCallback(trainer, checkpoint)):
        trainer.add_callback(callback)
    _fit(trainer, run, checkpoint)
    atexit.register(leave_process_group)
    if guards.stopped is not None:
        raise UserError(
            f"{guards.stopped} The run was ended (on_guard: stop) with a checkpoint in {run.checkpoints}; the same "
            "command with on_guard=warn resumes from there."
        )
    if stop.stopped_at is not None:
        raise KeyboardInterrupt(
            f"Stopped after step {stop.stopped_at} of {trainer.state.max_steps}; the checkpoint is in "
            f"{run.checkpoints}. The same command resumes from there."
        )
    _write_model(trainer, config, run, policy)
    return run.model


def leave_process_group() -> None:
    """Leave torch's process group. If its threads still run at exit, the process may end with SIGABRT."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def load_sets(config: RunConfig, fit: ImageFit | None) -> dict[str, list[Sample]]:
    """Load the samples of a run by role: "train", and "eval" if `data.eval` is set.

    Raises:
        UserError: The data are missing or unusable (see `load_samples`).
    """
    names = [reward.name for reward in config.rewards]
    # Half of a group of `grounded` is generated with another image, for which the reference answer does not hold.
    judged = any_asks(names, "answer") and not any_asks(names, "own_image")
    open_questions = config.method == "sft" or judged
    folders = {"train": (config.data.train, config.data.modality), "eval": (config.data.eval, None)}
    return {
        role: load_samples(
            folder, modality=modality, skip_missing=config.data.skip_missing, fit=fit, open_questions=open_questions
        )
        for role, (folder, modality) in folders.items()
        if folder is not None
    }


def overlap_warning(config: RunConfig, sets: Mapping[str, list[Sample]]) -> str | None:
    """Warning if evaluation and training data overlap; None if they do not, or if there are no evaluation data."""
    if config.data.eval is None:
        return None
    return warn_of_overlap(config.data.train, sets["train"], config.data.eval, sets["eval"])


def _load(config: RunConfig) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    """Load the samples by role, and describe them for data.json. Warn if evaluation and training data overlap."""
    fit = None
    # A complete run does not need its base model, which may have been deleted.
    if config.data.skip_missing or not RunFolder(Path(config.out)).complete:
        fit = image_fit(config.model, functools.partial(bound_pixels, config))
    loaded = load_sets(config, fit)
    loaded["train"], pass_rates = select_by_difficulty(config, loaded["train"])
    warning = overlap_warning(config, loaded)
    if warning:
        print(warning, file=sys.stderr)
    described = {role: describe(getattr(config.data, role), samples) for role, samples in loaded.items()}
    if pass_rates:
        described["train"]["pass_rates"] = pass_rates
    if config.data.synonyms:
        described["train"]["synonyms"] = hashlib.sha256(Path(config.data.synonyms).read_bytes()).hexdigest()
    return loaded, described


def _datasets(config: RunConfig, loaded: Mapping[str, list[Sample]]) -> dict[str, Any]:
    """Datasets by the name of the TRL trainer's argument."""
    processor = None
    if config.template in BOX_TEMPLATES:
        processor = image_fit(config.model, functools.partial(bound_pixels, config)).processor
    result = {}
    for role, samples in loaded.items():
        if role == "train" or str(config.trainer.get("eval_strategy", "no")) != "no":
            texts = {sample.id: sample.letter or sample.answer for sample in samples}
            folder = getattr(config.data, role)
            result[f"{role}_dataset"] = build_dataset(
                folder,
                samples,
                template=config.template,
                completions=texts if config.method == "sft" else None,
                processor=processor,
            )
    return result


def _policy(config: RunConfig) -> Policy:
    # Rejects an adapter folder, because new adapters would record its base model as their own.
    locate(config.model)
    # TRL's default: float32 weights, with bf16 autocast on a GPU.
    init = {"dtype": "float32", **(config.trainer.get("model_init_kwargs") or {})}
    policy = load_policy(config.model, dtype=init.pop("dtype"), device="cpu", model_init=init)
    forget_unused_renames(policy.model)
    bound_pixels(config, policy.processor.image_processor)
    return policy


def bound_pixels(config: RunConfig, processor: Any) -> None:
    """Apply `min_pixels` and `max_pixels` of a configuration to an image processor.

    Raises:
        UserError: The processor has no pixel bounds, or the maximum is below the minimum or below one image token.
    """
    bounds = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    given = {edge: pixels for edge, pixels in bounds.items() if pixels is not None}
    # Qwen's processors store pixel counts under the names of edges. Other processors store edge lengths.
    if given and "max_pixels" not in processor.valid_kwargs.__annotations__:
        raise UserError(
            f"{config.model}: its image processor has no pixel bounds; leave out min_pixels and max_pixels."
        )
    for edge, pixels in given.items():
        processor.size[edge] = pixels
    if not given:
        return
    least, most = processor.size["shortest_edge"], processor.size["longest_edge"]
    # The smallest image has the pixels of one token.
    token = (processor.patch_size * processor.merge_size) ** 2
    if most < max(least, token):
        why = f"min_pixels ({least})" if least >= token else f"the pixels of one image token ({token})"
        raise UserError(
            f"max_pixels ({most}) is below {why} of the image processor of {config.model}; raise max_pixels"
            + (", or set a lower min_pixels too." if least > token else ".")
        )


def lora_config(config: RunConfig) -> Any:
    """PEFT configuration of the adapters; None if the run trains full weights."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules or "all-linear",
        task_type="CAUSAL_LM",
    )


def _tensorboard(run: RunFolder, checkpoint: Path | None, *, main: bool) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    # Points after the resumed step will be written again.
    writer = SummaryWriter(log_dir=str(run.tensorboard), purge_step=step + 1) if main else None
    return TensorBoardCallback(tb_writer=writer)


def _no_telemetry() -> None:
    """Disable TRL's telemetry, so that nothing leaves a hospital without consent."""
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True


def _fit(trainer: Any, run: RunFolder, checkpoint: Path | None) -> None:
    from transformers import PrinterCallback

    # It prints every log if the progress bar is disabled.
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except AlreadyTrained:
        # The callbacks that truncate the logs did not run.
        for file in (run.metrics, run.rollouts):
            if trainer.args.process_index == 0:
                drop_rows_after(file, trainer.state.global_step)
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()


def _write_model(trainer: Any, config: RunConfig, run: RunFolder, policy: Policy) -> None:
    """Write `model/` atomically: to a temporary folder that is renamed when complete."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    refuse_unless_finite(trainer)
    forget_last_batch(policy.processor)
    partial = run.path / "model.partial"
    if trainer.args.process_index == 0:
        shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(partial))
    # Otherwise ZeRO-3 would shard every model that is loaded, but only the main process loads one here.
    unset_hf_deepspeed_config()
    if trainer.args.process_index == 0:
        if config.lora is not None:
            _merge(config, partial)
        policy.processor.save_pretrained(partial)
        # A pickle of TRL's options, which config.yaml already holds.
        with suppress(FileNotFoundError):
            (partial / "training_args.bin").unlink()
        sync_tree(partial)
        partial.replace(run.model)
        sync(run.path)
    trainer.accelerator.wait_for_everyone()


def _merge(config: RunConfig, folder: Path) -> None:
    """Replace the adapter in a folder with the merged model, in the dtype of the base model.

    The adapter is merged into a newly loaded base model, which works for every kind of distributed training.
    """
    merged = load_merged(config.model, folder)
    shutil.rmtree(folder)
    merged.save_pretrained(folder)
