"""The recipes of server/PIPELINES.md do what they say."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from clarion_server.config import interpret
from clarion_server.config.files import read_toml
from clarion_server.pipeline import chain
from clarion_server.pipeline.options import STEPS
from clarion_server.pipeline.step import Refused

PAGE = (Path(__file__).parent.parent / "server" / "PIPELINES.md").read_text()

_BLOCK = re.compile(
    r"^(`(?P<file>[^`]+)`.*|(?P<what>In|Out|Refused)):\n\n(?P<text>(?: {4}.*\n|\n)+)", re.M
)


class Recipe(NamedTuple):
    title: str
    files: dict[str, str]
    blocks: dict[str, str]


def recipes() -> Iterator[Recipe]:
    _, _, rest = PAGE.partition("## Recipes")
    for section in rest.partition("\n## ")[0].split("\n### ")[1:]:
        files: dict[str, str] = {}
        blocks: dict[str, str] = {}
        for found in _BLOCK.finditer(section):
            into, name = (files, found["file"]) if found["file"] else (blocks, found["what"])
            into[name] = textwrap.dedent(found["text"]).strip() + "\n"
        yield Recipe(section.partition("\n")[0], files, blocks)


@pytest.fixture
def modules() -> Iterator[None]:
    """The modules of recipes are forgotten again."""
    path, names = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - names:
        del sys.modules[name]


@pytest.mark.parametrize("recipe", list(recipes()), ids=lambda recipe: recipe.title)
@pytest.mark.usefixtures("modules")
def test_a_recipe_does_what_it_says(recipe: Recipe, tmp_path: Path) -> None:
    for name, text in recipe.files.items():
        (tmp_path / name).write_text(text)
    file = tmp_path / "clarion.toml"
    tables = read_toml(file, "test") | {"development": True}
    config = interpret(tables, str(file), {}, {}).config
    made = chain.make(config.namespaces["orders"], limit=config.limits.data_bytes)
    data = recipe.blocks["In"].encode()
    if "Refused" in recipe.blocks:
        with pytest.raises(Refused) as caught:
            made.run(data)
        assert f"{caught.value.step}: {caught.value}" == recipe.blocks["Refused"].strip()
    else:
        result = msgspec.json.decode(made.run(data))
        assert result == msgspec.json.decode(recipe.blocks["Out"])


def test_every_step_is_told() -> None:
    assert {recipe.files["clarion.toml"].split('"')[1] for recipe in recipes()} == STEPS.keys() - {
        "compress"
    }
    for name in STEPS:
        assert f"`{name}`" in PAGE


def test_it_is_plain_where_tests_are() -> None:
    for name in re.findall(r"`(tests/[a-z_]+\.py)`", PAGE):
        assert (Path(__file__).parent.parent / name).exists(), name
