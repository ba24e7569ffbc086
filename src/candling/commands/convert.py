"""`candling convert`: a pickled state made safe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="A .pt file with tensors by name.")],
    target: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    seconds: Annotated[int, typer.Option(min=1, help="Most processor time.")] = 120,
    megabytes: Annotated[int, typer.Option(min=1, help="Most memory.")] = 4096,
) -> None:
    """Turn a pickled state into safetensors, in a child process that can run none of its code."""
    from candling.access.convert import convert as run

    print(f"{len(run(source, target, seconds=seconds, megabytes=megabytes))} tensors in {target}")
