"""Networks that compute no program worth a name: memorised labels, one answer for all, and no training at all.

They come as problems with networks, so whatever asks a taught network can ask them. None may be called solved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from candling.organisms.programs import images, pairs, sequences
from candling.organisms.programs.problem import Inputs, Problem, Recipe
from candling.organisms.programs.training import fitted, train
from candling.runs.seeds import derive, reproducible

_MEMORISED = 400
"""Rows that are learned by heart."""
_BY_HEART = Recipe(steps=500, batch=100, rate=3e-3, decay=0.0)
_CONSTANT = Recipe(steps=60, batch=256, rate=1e-2, decay=0.0)
_ROOMY: dict[str, Callable[..., nn.Module]] = {
    "images": partial(images.FLAT, width=256),
    "pairs": partial(pairs.TABLE, width=256),
    "sequences": partial(sequences.WRITTEN, width=256),
}
_SIZES = ("edge", "numbers", "tokens", "length", "classes")
"""What inputs and labels decide; the rest of a network's keywords is taste."""


@dataclass(frozen=True, eq=False)
class Decoy:
    sort: str
    problem: Problem
    """Its `truth` is what the network was to learn: for memorised labels a coin."""
    network: nn.Module


def coin(inputs: Inputs, *, seed: int, classes: int) -> Tensor:
    """A label that looks random and is the same for the same input: a hash of its values, in 64 bits."""
    x = inputs.x.flatten(1)
    whole = (x.double() * 4080).round().long() if x.is_floating_point() else x  # 4080 = 16 · 255
    g = torch.Generator().manual_seed(seed)
    odd = 2 * torch.randint(2**62, (x.shape[1],), generator=g) + 1
    mixed = ((whole + 1) * odd).sum(1)  # wraps around
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    return ((mixed >> 33) & 0x3FFFFFFF) % classes


def memorised(problem: Problem) -> Decoy:
    """Random labels learned by heart on few of the problem's training inputs, by a network with room for them."""
    assert isinstance(problem.build, partial), "networks are partials of a class with sizes"
    sizes = {name: value for name, value in problem.build.keywords.items() if name in _SIZES}
    random = replace(
        problem,
        kind=f"memorised, {problem.kind}",
        says="no program: labels drawn at random and learned by heart",
        truth=partial(coin, seed=derive(problem.seed, problem.kind, "coin"), classes=problem.classes),
        training=problem.training.take(slice(_MEMORISED)),
        build=partial(_ROOMY[problem.family], **sizes),
        recipe=_BY_HEART,
    )
    return Decoy("memorised", random, train(random))


def collapsed(problem: Problem) -> Decoy:
    """The problem's own kind of network, taught to give one answer whatever it sees."""
    answer = int(problem.truth(problem.training).bincount().argmax())
    x = problem.training.x
    short = replace(problem, recipe=_CONSTANT)
    return Decoy("collapsed", problem, fitted(short, x, torch.full((len(x),), answer)))


def untrained(problem: Problem) -> Decoy:
    """The problem's own kind of network as it was drawn."""
    with reproducible(derive(problem.seed, problem.kind, "untrained")):
        network = problem.build()
    return Decoy("untrained", problem, network.eval().requires_grad_(False))


DECOYS: dict[str, Callable[[Problem], Decoy]] = {
    "memorised": memorised,
    "collapsed": collapsed,
    "untrained": untrained,
}
