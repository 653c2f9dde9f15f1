"""Location of the recipes: inside the installed package, or in a checkout."""

from pathlib import Path


def recipe(name: str) -> Path:
    """Path of a packaged recipe, such as "phantom.yaml"."""
    packaged = Path(__file__).parent / "recipes" / name
    return packaged if packaged.exists() else Path(__file__).parents[2] / "recipes" / name
