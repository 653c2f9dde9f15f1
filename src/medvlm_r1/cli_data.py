"""The `data` commands. As in `cli`, every verb imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli_options import Json, Out

data_app = typer.Typer(help="Data folders: import.", no_args_is_help=True)


@data_app.command("import")
def data_import(
    format: Annotated[str, typer.Argument(help="phantom, or a public format: huatuo.")],
    source: Annotated[Path | None, typer.Argument(help="The file that was downloaded (not for phantom).")] = None,
    *,
    out: Out,
    images: Annotated[Path | None, typer.Option(help="Folder of the image files.")] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="Keep these modalities; may be given several times.")
    ] = None,
    split: Annotated[str, typer.Option(help="phantom: train or test.")] = "test",
    n: Annotated[
        int | None, typer.Option("--n", help="phantom: questions per modality (600 to train, 300 to test).")
    ] = None,
    seed: Annotated[int, typer.Option(help="phantom: seed of subjects and questions.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a data folder (samples.jsonl, images/) from a public format or from PhantomVQA.

    Example: medvlm-r1 data import phantom --out data/phantom/train --split train
    """
    from medvlm_r1.errors import UsageError

    if format == "phantom":
        from medvlm_r1.console import progress_bar
        from medvlm_r1.phantom.benchmark import write_benchmark

        if source is not None or images is not None:
            raise UsageError("phantom makes its own images; leave out SOURCE and --images.")
        with progress_bar("PhantomVQA") as advance:
            samples = write_benchmark(out, split=split, modalities=modality or (), n=n, seed=seed, progress=advance)
        report: dict[str, Any] = {"rows": len(samples), "written": len(samples), "missing": 0}
    else:
        from dataclasses import asdict

        from medvlm_r1.data.names import did_you_mean
        from medvlm_r1.data.registry import READERS, find_reader

        if format not in READERS:
            raise UsageError(f"unknown data format {format!r}; {did_you_mean(format, [*READERS, 'phantom'])}")
        if source is None:
            raise UsageError(f"{format} needs SOURCE, the file that was downloaded.")
        reader = find_reader(format)
        report = asdict(reader(source, images=images or source.parent, out=out, modality=modality or None))
    if as_json:
        print(json.dumps(report))
        return
    print(f"{out}: {report['written']} questions written, {report['missing']} of them without their image.")
    for name, count in report.get("by_modality", {}).items():
        print(f"  {name}: {count}")
