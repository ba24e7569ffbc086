"""The index of techniques, written from their own headers and cards: a page for each question."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from candling import techniques
from candling.errors import EnvironmentFault
from candling.evidence.card import Card, Grades
from candling.report.grade_screen import rank, shown
from candling.report.numerals import number
from candling.runs.files import write_whole
from candling.techniques.cards import cards

FIELDS = ("Question", "Source", "Inputs", "Cost", "Known failures")
_MARKED = "Written by `candling grade`; do not edit."


def pages(grades: Grades) -> dict[str, str]:
    """File name → Markdown."""
    found = {f"{name}.md": _page(module, name, grades) for name, module in questions()}
    links = "\n".join(f"- [{name}]({name}.md): {_first_line(module)}" for name, module in questions())
    command = f"candling grade --subjects {grades.subjects} --seed {grades.seed}"
    found["README.md"] = f"""# Techniques

{_MARKED}

One file is one method, one folder one question. A technique carries what it scored on organisms whose truth the
grader alone knew (`{command}`), with the null and the black-box baseline in the same table.

{links}
"""
    return found


def write(grades: Grades, folder: Path) -> None:
    """The pages, and `cards.json` for programs. Raises EnvironmentFault."""
    write_pages(grades, folder)
    write_whole(folder / "cards.json", (grades.model_dump_json(indent=1) + "\n").encode())


def write_pages(grades: Grades, folder: Path) -> None:
    """Raises EnvironmentFault."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise EnvironmentFault("write", f"cannot make {folder}: {fault.strerror}") from fault
    for name, text in pages(grades).items():
        write_whole(folder / name, text.encode())


def questions() -> Iterator[tuple[str, ModuleType]]:
    """The folders of techniques, by name."""
    for each in pkgutil.iter_modules(techniques.__path__):
        if each.ispkg:
            yield each.name, importlib.import_module(f"{techniques.__name__}.{each.name}")


def methods(folder: ModuleType) -> Iterator[ModuleType]:
    """Its files with a technique's header."""
    for each in pkgutil.iter_modules(folder.__path__):
        module = importlib.import_module(f"{folder.__name__}.{each.name}")
        if "\nKnown failures:" in (module.__doc__ or ""):
            yield module


def header(module: ModuleType) -> tuple[str, dict[str, str]]:
    """The first line, and what each field says, line breaks folded."""
    lines = (module.__doc__ or "").strip().splitlines()
    said: dict[str, str] = {}
    field = ""
    for line in lines[1:]:
        name, colon, rest = line.partition(": ")
        if colon and name in FIELDS:
            field, line = name, rest
        if field and line.strip():
            said[field] = f"{said.get(field, '')} {line.strip()}".strip()
        elif not line.strip():
            field = ""
    return lines[0], said


def _page(folder: ModuleType, name: str, grades: Grades) -> str:
    parts = [f"# {name}", _MARKED, _first_line(folder)]
    cards = [card for card in grades.cards if card.question == name]
    for exam in dict.fromkeys(card.exam for card in cards):
        parts += [f"## {exam}", _table([card for card in cards if card.exam == exam])]
    for module in methods(folder):
        title, said = header(module)
        lines = [f"- *{field}*: {said[field]}" for field in FIELDS if field in said]
        parts += [f"## `{module.__name__.rpartition('.')[2]}`", title, "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").strip().splitlines()[0]


def _table(cards: Sequence[Card]) -> str:
    """The best first. The figure that techniques are ranked by comes first."""
    measures = [figure.measure for figure in cards[0].figures]
    rows = ["| technique | " + " | ".join([*measures, "s each"]) + " |", "| --- |" + " --- |" * (len(measures) + 1)]
    for card in sorted(cards, key=lambda each: -rank(each)):
        cells = [*(shown(figure) for figure in card.figures), number(card.seconds)]
        rows.append(f"| {card.technique} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    write_pages(cards(), Path(sys.argv[1]))
