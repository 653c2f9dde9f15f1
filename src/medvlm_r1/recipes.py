"""Location of the YAML recipes: in the installed package, or in a source checkout."""

from pathlib import Path


def recipe(name: str) -> Path:
    """Path of a packaged recipe by file name, such as "phantom.yaml"."""
    packaged = Path(__file__).parent / "recipes" / name
    return packaged if packaged.exists() else Path(__file__).parents[2] / "recipes" / name
