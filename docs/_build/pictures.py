"""Draws the pictures of the documentation: `python docs/_build/pictures.py` writes them to docs/assets.

Images are from PhantomVQA and rollouts from the embedded base. Rewards and variants are computed by the package, all
with fixed seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from audit_picture import audit_picture
from mask_picture import mask_picture
from matplotlib.figure import Figure
from step_picture import step_picture

from medvlm_r1.phantom.scene import KINDS, SIZES
from medvlm_r1.phantom.scene import MODALITIES, REGIONS, Scene, render, techniques

ASSETS = Path(__file__).parents[1] / "assets"
_INCH = 1.3
_SEED = (9, 7)


def _grid(rows: Sequence[Sequence[tuple[str, Scene]]], names: Sequence[str]) -> Figure:
    """Draw a grid of scenes with titles, and row names on the left."""
    wide = max(map(len, rows))
    figure, axes = plt.subplots(
        len(rows), wide, figsize=(_INCH * wide + 0.5, (_INCH + 0.22) * len(rows)), squeeze=False, layout="constrained"
    )
    for line, name, row in zip(axes, names, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, (title, scene) in zip(line, row, strict=False):
            axis.imshow(render(scene), cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=8, pad=3)
        line[0].text(-0.06, 0.5, name, transform=line[0].transAxes, rotation=90, fontsize=9, ha="right", va="center")
    return figure


def _scene(modality: str, region: str, plane: str, technique: str, finding: str = "none", size: str = "large") -> Scene:
    there = finding != "none"
    return Scene(modality, region, plane, technique, finding, "left" if there else None, size if there else None, _SEED)


def bodies() -> Figure:
    """Every region in every modality."""
    planes = {"head": "axial", "chest": "coronal", "abdomen": "axial", "knee": "sagittal"}
    rows = []
    for modality in MODALITIES:
        row = []
        for region in REGIONS:
            plane = "frontal" if modality == "X-ray" else planes[region]
            technique = techniques(modality, region)[0]
            if modality == "X-ray":
                technique = plane
            elif (modality, region) == ("CT", "head"):
                technique = "brain window"
            row.append((f"{region}, {technique.removesuffix(' window')}", _scene(modality, region, plane, technique)))
        rows.append(row)
    return _grid(rows, MODALITIES)


def contrasts() -> Figure:
    """One head in every MR sequence, one chest in every CT window."""
    return _grid(
        [
            [(one, _scene("MRI", "head", "axial", one, "mass")) for one in techniques("MRI", "head")],
            [(one, _scene("CT", "chest", "axial", one)) for one in techniques("CT", "chest")],
        ],
        ["MRI", "CT"],
    )


def findings() -> Figure:
    """Every kind of finding, then one kind in every size."""
    return _grid(
        [
            [(one, _scene("MRI", "abdomen", "axial", "T2-weighted", one)) for one in KINDS],
            [(f"{one} mass", _scene("CT", "head", "axial", "brain window", "mass", one)) for one in SIZES],
        ],
        ["kind", "size"],
    )


def main() -> None:
    """Draw and save all pictures."""
    ASSETS.mkdir(exist_ok=True)
    for draw in (bodies, contrasts, findings):
        draw().savefig(ASSETS / f"phantom-{draw.__name__}.webp", dpi=110, pil_kwargs={"quality": 82})
    (ASSETS / "shared-prompt.svg").write_text(mask_picture(), encoding="utf-8")
    (ASSETS / "grpo-step.svg").write_text(step_picture(), encoding="utf-8")
    (ASSETS / "audit-variants.svg").write_text(audit_picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
