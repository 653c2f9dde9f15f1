"""The `demo`, `recipes` and `doctor` commands, for the first steps of a user."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Json, Out, complete_recipe, find_recipe, print_result
from medvlm_r1.errors import UsageError, UserError, require_extra
from medvlm_r1.stopping import stop_on_sigterm


def demo_command(
    out: Out = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the training runs.")] = 0,
    as_json: Json = False,
) -> None:
    """Run the paper's experiment on PhantomVQA: zero-shot, SFT and GRPO, with a table and a report.

    Takes minutes on a laptop. Re-run to resume.

    Example: medvlm-r1 demo --out runs/demo
    """
    from rich.console import Console

    with stop_on_sigterm(out):
        from medvlm_r1.demo import print_table, run_demo

        results = run_demo(out, seed=seed)
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    print_table(results, console)
    console.print(f"Report: {out / 'report.html'}   Results: {out / 'results.json'}", soft_wrap=True)


def recipes_command(
    name: Annotated[Path | None, typer.Argument(metavar="NAME", autocompletion=complete_recipe)] = None,
    copy: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
) -> None:
    """List the recipes of the package, or show or copy one.

    Example: medvlm-r1 recipes phantom.yaml
    Example: medvlm-r1 recipes phantom.yaml --copy mine.yaml

    Options:
        name: Recipe to show.
        copy: Copy the recipe to a new file.
    """
    if name is None:
        if copy is not None:
            raise UsageError("--copy needs the NAME of a recipe.")
        print("\n".join(complete_recipe("")))
        return
    text = find_recipe(name).read_text(encoding="utf-8")
    if copy is None:
        print(text, end="")
        return
    if copy.exists():
        raise UsageError(f"{copy} exists; give the name of a new file.")
    copy.write_text(text, encoding="utf-8")
    print(f"Recipe: {copy}")


# Keys of `training.self_check.run.CHECKS`, repeated here so that `--help` does not import torch.
Check = StrEnum("Check", "equality step lora vllm fsdp2")


def doctor_command(
    gpu: Annotated[bool, typer.Option("--gpu")] = False,
    check: Annotated[list[Check], typer.Option()] = [],  # noqa: B006
    versions_only: Annotated[bool, typer.Option("--versions")] = False,
    out: Annotated[Path, typer.Option()] = Path(),
    as_json: Json = False,
) -> None:
    """Check that this machine trains correctly. Takes minutes, downloads nothing.

    Prints versions and devices. Then compares the shared forward with the plain one for every model family, and takes
    GRPO steps on random weights: with plain TRL, LoRA, FSDP2 and vLLM. Every line reads pass, fail or not available.
    doctor.json and doctor.md can be attached to a bug report.

    Example: medvlm-r1 doctor --gpu

    Options:
        gpu: Check one GPU with a model of Qwen2-VL-2B's shape. Default: CPU, small models.
        check: Run these checks only. Repeatable. Default: all.
        versions_only: Print versions and devices only.
        out: Folder for doctor.json and doctor.md.
    """
    from medvlm_r1.console import progress_bar, stderr_console
    from medvlm_r1.models.device import versions

    # Importing torch, which lists the devices, takes seconds.
    with stderr_console().status("Looking for devices"):
        environment = versions()
    lines = []
    for name, value in environment.items():
        items = [f"{key} {version}" for key, version in value.items()] if isinstance(value, dict) else value
        lines.append(f"{name}: {', '.join(items) if isinstance(items, list) else items}")
    if versions_only:
        print_result(environment, lines, as_json=as_json)
        return
    from medvlm_r1.training.self_check.run import Line, run_all, write_report

    if gpu and environment["devices"] == ["cpu"]:
        raise UserError("--gpu: torch sees no GPU. Check the driver and the torch build, or leave out --gpu.")
    device = "cuda" if gpu else "cpu"
    try:
        require_extra("train")
    except UserError as error:
        results = [Line("training", "not available", str(error))]
    else:
        with progress_bar("Checks") as advance:
            results = run_all([item.value for item in check or Check], device, advance)
    report = write_report(out, environment, device, results)
    width = max(len(result.check) for result in results)
    lines += [f"{result.check:<{width}}  {result.status:<13}  {result.detail}" for result in results]
    print_result(report, [*lines, f"Written to {out / 'doctor.json'} and {out / 'doctor.md'}."], as_json=as_json)
    failed = [result.check for result in results if result.status == "fail"]
    if failed:
        raise UserError(f"{len(failed)} of {len(results)} checks failed: {'; '.join(failed)}.")
