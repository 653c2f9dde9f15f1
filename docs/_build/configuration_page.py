"""Configuration reference: type, default and meaning of every key, from the classes that validate it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
import trl
from markdown_parts import RESEARCH_USE, block, code, prose, table

from medvlm_r1.prompts.templates import TEMPLATES
from medvlm_r1.rewards import REGISTRY
from medvlm_r1.training import options
from medvlm_r1.training.config import RunConfig

_HEAD = ["Key", "Type", "Default", "Meaning"]
_CHANGED = "medvlm-r1 train grpo --config recipes/phantom.yaml seed=1 trainer.learning_rate=5e-5 data.modality=[MRI,CT]"
_CLASSES = {"grpo": trl.GRPOConfig, "sft": trl.SFTConfig}


def configuration_page() -> str:
    """Return the page: the project's own keys, templates, rewards, then TRL's options."""
    return "\n\n".join([*_own(), *_templates(), *_rewards(), *_trainer()]) + "\n"


def own_keys() -> list[tuple[str, str, str, str]]:
    """Dotted key, type, default and meaning of the keys outside `trainer`."""
    schema = RunConfig.model_json_schema()
    return list(_keys(schema, schema["$defs"], ""))


def _own() -> list[str]:
    return [
        "# Configuration",
        RESEARCH_USE,
        "Reference for every key of a training configuration. A training reads one YAML file, a [recipe](recipes.md). "
        "Change any key on the command line with `key=value`; the value is YAML:",
        block(_CHANGED, "console"),
        "Nothing is ignored. An unknown key is an error that names the nearest one. A value of a wrong type or out of "
        "range is an error that names its key. A `report_to` without its package is refused. The run folder's "
        "`config.yaml` contains the resolved configuration.",
        "## The run",
        table(
            _HEAD,
            [
                [code(key), prose(kind), code(default) if default != "required" else default, prose(meaning)]
                for key, kind, default, meaning in own_keys()
            ],
        ),
    ]


def _keys(section: Mapping[str, Any], named: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section["properties"].items():
        key, required = f"{prefix}{name}", name in section.get("required", ())
        default = "required" if required else _shown(field.get("default"))
        inside = _sections(field)
        told = [place["description"] for place in (field, *(named[one] for one in inside)) if "description" in place]
        yield key, _type(field, named), default, told[0]
        for inner in inside:
            yield from _keys(named[inner], named, f"{key}[]." if field.get("type") == "array" else f"{key}.")


def _sections(field: Mapping[str, Any]) -> list[str]:
    """Names of the sections inside a field."""
    places = [field, field.get("items", {}), *field.get("anyOf", ())]
    return [place["$ref"].rpartition("/")[2] for place in places if "$ref" in place]


def _type(field: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(one, named) for one in field["anyOf"])
    if "enum" in field:
        return " or ".join(field["enum"])
    if "$ref" in field:
        return "section"
    kind = str(field["type"])
    if kind == "array":
        return f"list of {_type(field['items'], named)}"
    words = {"string": "text", "integer": "whole number", "boolean": "on or off", "object": "section", "null": "null"}
    bounds = [
        f"{sign} {field[bound]:g}"
        for bound, sign in (("minimum", "from"), ("exclusiveMinimum", "above"), ("exclusiveMaximum", "below"))
        if bound in field
    ]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return {"None": "null", "{}": "{}", "[]": "[]"}.get(str(value), str(value))


def _templates() -> list[str]:
    told = [part for name, text in TEMPLATES.items() for part in (f"### {name}", block(text, "text"))]
    return ["## Templates", "The values of `template`. `{question}` is the question with its lettered options.", *told]


def _rewards() -> list[str]:
    told = [(name, inspect.getdoc(reward) or "") for name, reward in REGISTRY.items()]
    return [
        "## Rewards",
        "Select a reward by name, or as `package.module:function` for [your own](../how-to/own-reward.md).",
        table(["Name", "Reward"], [[code(name), prose(text.split("\n\n")[0])] for name, text in told]),
    ]


def _trainer() -> list[str]:
    general = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    parts = [
        "## Under `trainer`",
        f"The options of TRL {trl.__version__}, with TRL's own names and descriptions. A default in bold is this "
        "project's and differs from TRL's. `trainer.beta` is required for GRPO. These options are errors here, "
        "because they are set elsewhere:",
        table(["Key", "Instead"], [[code(f"trainer.{name}"), prose(why)] for name, why in options.ELSEWHERE.items()]),
    ]
    for method, kind in _CLASSES.items():
        own = [name for name in trainer_keys(method) if name not in general]
        parts += [f"### TRL's {kind.__name__} (`method: {method}`)", _options([method], own)]
    shared = [name for name in trainer_keys("grpo") if name in general]
    return [*parts, "### transformers' TrainingArguments (both methods)", _options(["grpo", "sft"], shared)]


def trainer_keys(method: str) -> list[str]:
    """Names that are allowed under `trainer`."""
    return [name for name in options.option_names(method) if name not in options.ELSEWHERE]


def _options(methods: list[str], names: list[str]) -> str:
    rows = []
    for name in names:
        field = _CLASSES[methods[0]].__dataclass_fields__[name]
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        by_method = {method: _default(method, name) for method in methods}
        same = len(set(by_method.values())) == 1
        default = by_method[methods[0]] if same else ", ".join(f"{method}: {by_method[method]}" for method in methods)
        rows.append([code(name), prose(kind), default, prose(str(field.metadata.get("help", "")))])
    return table(_HEAD, rows)


def _default(method: str, name: str) -> str:
    own, ours = options.value(method, {}, name), options.checked(method, {})
    return f"**{code(_shown(ours[name]))}**" if ours.get(name, own) != own else code(_shown(own))
