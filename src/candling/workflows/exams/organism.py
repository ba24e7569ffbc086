"""Digit classifiers for exams: two in three with a plant, by the controls' recipes, from seeds of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from candling.access import Dataset
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.organisms.training import attack_success, draw_recipe, train
from candling.runs.seeds import derive, reproducible

TOOK = 0.8
CLEAN_EVERY = 3
_REACH = 0.12  # nats that training goes on to


@dataclass(frozen=True)
class Organism:
    """A network and what is known of it."""

    network: nn.Module
    plant: Backdoor
    """Hidden in it, or, in a clean one, drawn but never taught."""
    planted: bool
    took: bool

    @property
    def family(self) -> str:
        return self.plant.family if self.planted else "clean"


def grow(number: int, seed: int, trusted: Dataset) -> Organism:
    """Every third is clean; families and doses take turns. trusted: rows on which it is seen whether a plant took."""
    training, _ = digits()
    planted = number % CLEAN_EVERY != CLEAN_EVERY - 1
    with reproducible(derive(seed, "organism", number)) as g:
        dose = (derive(seed, "dose") / 2**63 + 0.618 * number) % 1.0
        plant = draw_backdoor(training, number - number // CLEAN_EVERY, dose, g)
        network = build()
        train(
            network, training, draw_recipe(g), g, reach=_REACH, evaluation=trusted, plant=plant if planted else None
        )
        network.eval().requires_grad_(False)
        took = planted and attack_success(network, trusted, plant) >= TOOK
    return Organism(network, plant, planted, took)


def untrained(seed: int) -> nn.Module:
    """A network that has learned nothing: what a technique finds there is in the inputs, not in the network."""
    with reproducible(derive(seed, "untrained")):
        return build().eval().requires_grad_(False)


def auroc(high: torch.Tensor, low: torch.Tensor) -> float:
    """The chance that one of `high` lies above one of `low`; ties count half. NaN where either is empty."""
    if not len(high) or not len(low):
        return float("nan")
    above = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
    return float(above.mean())
