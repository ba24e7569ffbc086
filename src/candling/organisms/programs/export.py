"""A problem as files: what `candling solve` takes in one folder, what grades it in another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from candling.access import write_weights
from candling.organisms.programs.problem import Problem

_NET = '''"""A fresh network, without its weights."""

from {module} import {name}


def build():
    return {name}({sizes})
'''


def export(problem: Problem, network: nn.Module, folder: Path) -> None:
    """Write `model.safetensors`, `net.py` (its `build`), `data.npz` (x, unlabelled) and `truth.npz` into a folder.

    `truth.npz` has `y` [n] for the rows of `data.npz`, and apart from it what the network was trained and tested on:
    `x_training`, `y_training`, `x_test`, `y_test`. Images also have `concepts.npz`: `digit` [n] for the rows of
    `data.npz`, and `digit_training` and `digit_test` among the truth. The folder must be there.
    """
    write_weights(folder / "model.safetensors", network.state_dict())
    (folder / "net.py").write_text(source(problem), encoding="utf-8")
    np.savez(folder / "data.npz", x=problem.unlabelled.x.numpy())
    truth: dict[str, Any] = {"y": problem.truth(problem.unlabelled).numpy()}
    for name, part in (("training", problem.training), ("test", problem.test)):
        truth[f"x_{name}"], truth[f"y_{name}"] = part.x.numpy(), problem.truth(part).numpy()
        if part.digit is not None:
            truth[f"digit_{name}"] = part.digit.numpy()
    np.savez(folder / "truth.npz", **truth)
    if problem.unlabelled.digit is not None:
        np.savez(folder / "concepts.npz", digit=problem.unlabelled.digit.numpy())


def source(problem: Problem) -> str:
    """A Python file with a function `build` that makes the problem's network."""
    build = problem.build
    assert isinstance(build, partial), "networks are partials of a class with sizes"
    sizes = ", ".join(f"{name}={value!r}" for name, value in build.keywords.items())
    made = build.func
    assert isinstance(made, type)
    return _NET.format(module=made.__module__, name=made.__qualname__, sizes=sizes)
