"""`candling explain`: the circuit of one behaviour of a language model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from candling.commands.progress import live_progress
from candling.report import terminal_safe


def explain(
    model: Annotated[str, typer.Argument(help="A language model's folder, the hub's owner/name, or net.py:build")],
    pairs: Annotated[Path, typer.Option(help="Lines with clean, corrupt, answer and wrong, .jsonl.")],
    weights: Annotated[str | None, typer.Option(help="Weights of net.py:build, safetensors.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Its tokenizer.json.")] = None,
    layout: Annotated[str | None, typer.Option(help="Where it keeps its parts: a table, .json.")] = None,
    keep: Annotated[float, typer.Option(help="Share of the behaviour that the circuit must keep.")] = 0.9,
    largest: Annotated[int, typer.Option(min=1, help="Edges that are measured one by one.")] = 400,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the record; the same command reads it.")] = None,
    device: str = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 ...")] = "float32",
    chat: Annotated[bool, typer.Option("--chat", help="Prompts are questions, for the chat template.")] = False,
) -> None:
    """Which parts of a language model compute this behaviour? Exit status 0."""
    from candling.access import sha256_file
    from candling.access.pairs import read_pairs
    from candling.report.explain_screen import show
    from candling.runs.record import default_folder
    from candling.workflows.audit import Origin
    from candling.workflows.chats import chat_pairs
    from candling.workflows.explain import explain as run
    from candling.workflows.inputs import lasting, open_language

    given, template = read_pairs(pairs), None
    opened = open_language(model, weights, tokenizer, layout, dtype)
    if chat:
        given, note, template = chat_pairs(given, model, opened.tokenizer)
        opened = replace(opened, notes=[*opened.notes, note])
    named = {"weights": opened.model.sha256, "pairs": sha256_file(pairs), "layout": opened.family.layout.json}
    named |= {"keep": repr(keep), "largest": str(largest), "seed": str(seed), "device": device, "dtype": dtype}
    named |= {"chat": template} if template else {}
    folder = out or default_folder(f"explain-{Path(model).name}", named)
    with live_progress() as progress:
        explained = run(
            opened,
            given,
            keep=keep,
            largest=largest,
            seed=seed,
            out=folder,
            device=device,
            progress=progress,
            origin=Origin(
                model=lasting(model),
                weights=lasting(weights),
                trusted=lasting(str(pairs)),
                dtype=dtype,
                tokenizer=lasting(tokenizer),
                chat_template=template,
            ),
        )
    for note in explained.record.info.notes:
        print(terminal_safe(f"note: {note}"), file=sys.stderr)
    show(explained.explanation, explained.record.arrays, Console())
    print(
        f"report  {folder / 'report.html'}\nrecord  {folder / 'explanation.json'}\nreplay  candling replay {folder}"
    )
