"""Pages made from the code hold all of it; pages written by hand name all that is registered."""

import re
import sys
from pathlib import Path

import pytest

from commands import verbs
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.data.importing.registry import READERS
from medvlm_r1.prompts.templates import TEMPLATES
from medvlm_r1.recipes import recipe
from medvlm_r1.rewards import REGISTRY
from medvlm_r1.training import options
from medvlm_r1.training.config import DataConfig, LoraSection, RewardConfig, RunConfig

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not in an installed package")


@pytest.fixture(scope="module")
def built():
    """The generated pages, from the hook itself."""
    sys.path.insert(0, str(DOCS / "_build"))
    try:
        import pages
    finally:
        sys.path.remove(str(DOCS / "_build"))
    return dict(pages.pages())


def section(page, heading, level=2):
    """What stands under a heading, up to the next of its level."""
    mark = "\n" + "#" * level + " "
    sections = [chunk for chunk in page.split(mark)[1:] if re.match(rf"{re.escape(heading)}(?![\w-])", chunk)]
    assert len(sections) == 1, (heading, len(sections))
    return sections[0]


def test_every_verb_with_each_option_and_example(built):
    commands = dict(verbs())
    assert len(commands) > 12
    for words, command in commands.items():
        text = section(built["reference/cli.md"], f"medvlm-r1 {' '.join(words)} {{")
        for option in (parameter.opts[0] for parameter in command.params if parameter.param_type_name == "option"):
            assert f"| `{option}" in text or f"| <code>{option}" in text, (words, option)
        for line in command.help.splitlines():
            assert line.partition("Example: ")[2] in text


def test_every_key_of_the_configuration_with_its_meaning(built):
    rows = [line.split(" | ") for line in section(built["reference/configuration.md"], "The run").splitlines()]
    meanings = {row[0].strip("| `"): row[-1].strip(" |") for row in rows if len(row) == 4}
    sections = (("", RunConfig), ("data.", DataConfig), ("rewards[].", RewardConfig), ("lora.", LoraSection))
    for prefix, kind in sections:
        for name in kind.model_fields:
            assert len(meanings[prefix + name]) > 4, prefix + name


def test_every_option_of_the_trainers(built):
    text = section(built["reference/configuration.md"], "Under `trainer`")
    grpo, sft = options.option_names("grpo"), options.option_names("sft")
    assert {"beta", "num_generations", "learning_rate"} <= set(grpo)
    for name in {*grpo, *sft}:
        assert f"\n| `{name}` |" in text or f"\n| `trainer.{name}` |" in text, name


def test_every_template_and_reward(built):
    page = built["reference/configuration.md"]
    for name, text in TEMPLATES.items():
        assert f"\n### {name}\n\n```text\n{text}\n```" in page
    for name in REGISTRY:
        assert f"\n| `{name}` |" in section(page, "Rewards")
        assert f"\n::: medvlm_r1.rewards.{name}.{name}\n" in (DOCS / "reference" / "python.md").read_text()


def test_every_recipe_in_full(built):
    folder = recipe("paper.yaml").parent
    files = sorted(folder.rglob("*.yaml"))
    assert len(files) > 15
    page = built["reference/recipes.md"]
    for file in files:
        level = 2 if file.parent == folder else 3
        text = section(page, f"{file.relative_to(folder).as_posix()} {{", level)
        for line in file.read_text().splitlines():
            if line and not line.startswith("#"):
                assert f"    {line}\n" in text, (file.name, line)


def test_every_reader_and_probe_is_on_its_page():
    data = (DOCS / "reference" / "data.md").read_text()
    for name in READERS:
        assert f"`{name}`" in data, name
    audit = (DOCS / "reference" / "audit-model.md").read_text()
    for name in PROBES:
        assert f"\n## {name}: " in audit, name


def test_root_files_and_the_notebook_are_in_the_site(built):
    for name in ("contributing.md", "security.md", "notebooks/api.md"):
        assert "Not a medical device" in built[name]
        assert "](docs/" not in built[name]
    pictures = [name.removeprefix("notebooks/") for name in built if name.startswith("notebooks/api_files/")]
    assert pictures
    assert [name for name in pictures if f"]({name})" not in built["notebooks/api.md"]] == []


def test_files_named_for_contributors_exist():
    root = DOCS.parent
    named = set(re.findall(r"`([\w/.-]+\.(?:py|md|yaml|toml))`", (root / "CONTRIBUTING.md").read_text()))
    folders = ("src", "tests", "docs", "benchmarks")
    files = [path.as_posix() for folder in folders for path in (root / folder).rglob("*.*")]
    files += [path.as_posix() for path in root.iterdir()]
    assert len(named) > 20
    absent = [name for name in named if "NAME" not in name and not any(f.endswith(f"/{name}") for f in files)]
    assert not absent
