"""What a user names, opened: shared by the commands and by replay."""

from __future__ import annotations

from pathlib import Path

from candling.access import Dataset, Model, load, read_npz
from candling.errors import InputError
from candling.organisms.samples import SAMPLES, load_sample


def open_inputs(model: str, weights: str | None, trusted: str | None) -> tuple[Model, Dataset]:
    """`sample:NAME` brings its own weights and data; `net.py:build` needs both."""
    if model.startswith("sample:"):
        name = model.removeprefix("sample:")
        if name not in SAMPLES:
            raise InputError("sample", f"no sample {name!r}: choose from {', '.join(SAMPLES)}")
        if weights or trusted:
            raise InputError("sample", f"{model} brings its own weights and data: leave those options out")
        return load_sample(name)
    if weights is None or trusted is None:
        missing = "--weights FILE.safetensors" if weights is None else "--trusted FILE.npz"
        raise InputError("usage", f"{model} needs {missing}")
    return load(model, weights=weights), read_npz(Path(trusted))
