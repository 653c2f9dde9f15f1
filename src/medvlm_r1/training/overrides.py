"""YAML configuration files, and overrides from the command line."""

from __future__ import annotations

import copy
import re
import reprlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from medvlm_r1.errors import UsageError


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-5` is a number and a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        UsageError: The file cannot be read, is malformed YAML, or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error
    value = _parse(text, str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a mapping of keys to values, saw {type(value).__name__}")
    return value


def apply_overrides(config: dict[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """Apply overrides of the form `a.b=value` to a copy of a nested mapping.

    Args:
        config: The mapping. It is not changed.
        overrides: Dotted keys and YAML values, such as `trainer.learning_rate=1e-5`.
        source: Origin of the mapping, such as its path, for error messages.

    Raises:
        UsageError: An override has no equals sign or no key, its value is malformed, or its key is below a value that
            is not a mapping.
    """
    result = copy.deepcopy(config)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"override {override!r} is not of the form key=value, such as trainer.learning_rate=1e-5")
        level = result
        for depth, key in enumerate(keys[:-1]):
            if level.get(key) is None:
                level[key] = {}
            level = level[key]
            if not isinstance(level, dict):
                above = ".".join(keys[: depth + 1])
                raise UsageError(
                    f"{source}: override {override!r} goes below '{above}', which is {shortened(level)}, not a mapping"
                )
        level[keys[-1]] = _parse(text, f"override {override!r}")
    return result


def shortened(value: Any) -> str:
    """The repr of a value for messages, shortened if it is long or deeply nested."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxdict, brief.maxlist, brief.maxstring, brief.maxother = 2, 8, 8, 200, 200
    return brief.repr(value)


def _parse(text: str, source: str) -> Any:
    try:
        # This SafeLoader cannot create arbitrary Python objects.
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{line}: malformed YAML ({getattr(error, 'problem', None) or error})") from error
    # PyYAML raises these for values that do not fit their tag: "!!int ''", the date 2001-99-99.
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else f"a value does not fit its tag: {error}"
        raise UsageError(f"{source}: malformed YAML ({what})") from error
