"""The README and the docs say what is true of the commands and the files."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import candling
from candling.cli import app
from candling.evidence.verdict import Verdict, Verdicts

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, from all pages; an unmarked fence has the language ``."""
    found, open_block, opened = [], None, ""
    for line in (line for text in TEXT.values() for line in text.splitlines()):
        if not line.startswith("```"):
            if open_block is not None:
                open_block.append(line)
        elif open_block is None:
            open_block, opened = [], line[3:]
        else:
            found += ["\n".join(open_block)] if opened == language else []
            open_block = None
    return found


def test_every_command_shown_has_the_options_it_uses() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("candling ")]
    assert len(lines) >= 5
    for line in lines:
        name = line.split()[1]
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        for option in re.findall(r"--[a-z-]+", line.split("#")[0]):
            assert option in shown, line


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {word for text in TEXT.values() for word in re.findall(r"^make ([a-z]+)", text, re.M)}
    assert {"audit", "test"} <= used <= targets


def test_python_snippets_parse_and_use_public_names() -> None:
    for block in blocks("python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "candling":
                assert node.attr in candling.__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT[page]):
        assert (page.parent / target).exists(), target


def test_every_field_of_verdicts_json_is_described() -> None:
    text = TEXT[ROOT / "docs" / "verdicts.md"]
    top = [field.alias or name for name, field in Verdicts.model_fields.items()]
    for name in [*top, *Verdict.model_fields]:
        assert re.search(rf"`[^`]*\b{name}\b", text), name


def test_schema_number_is_the_documented_one() -> None:
    assert json.loads(f'{{"schema": {Verdicts.model_fields["schema_"].default}}}')["schema"] == 1
    assert "| `schema` | 1 |" in TEXT[ROOT / "docs" / "verdicts.md"]
