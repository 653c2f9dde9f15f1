"""Where the recipes are: inside an installed package, or beside the sources in a checkout."""

from pathlib import Path


def recipe(name: str) -> Path:
    """Path of a recipe that comes with the project, such as "phantom.yaml"."""
    packaged = Path(__file__).parent / "recipes" / name
    return packaged if packaged.is_file() else Path(__file__).parents[2] / "recipes" / name
