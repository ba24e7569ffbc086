"""Teach a network a problem's program, and say whether it may be asked about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

from candling.organisms.programs.problem import MOST, Inputs, Problem, Recipe, majority
from candling.runs.seeds import derive, reproducible

LEAST = 0.97
"""Training and test accuracy from which on a problem is admitted."""


def train(problem: Problem) -> nn.Module:
    """A network taught the problem's program on its training inputs: in eval mode, the same for one problem.

    Seconds on one thread. It is returned however well it learned: ask `admission`.
    """
    return fitted(problem, problem.training.x, problem.truth(problem.training))


def fitted(problem: Problem, x: Tensor, y: Tensor) -> nn.Module:
    """The problem's network by its recipe, on any inputs and labels."""
    with reproducible(derive(problem.seed, problem.kind, "network")) as g:
        network = problem.build()
        fit(network, x, y, problem.recipe, g)
    return network


def fit(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, g: torch.Generator) -> None:
    """Train in place by the recipe; batches pass over the rows again and again, each time in a new order."""
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.decay, fused=True)
    schedule = OneCycleLR(optimiser, recipe.rate, total_steps=recipe.steps + 1, pct_start=0.2, cycle_momentum=False)
    batch = min(recipe.batch, len(y))
    order = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        if len(order) < batch:
            order = torch.randperm(len(y), generator=g)
        rows, order = order[:batch], order[batch:]
        optimiser.zero_grad()
        cross_entropy(network(x[rows]), y[rows]).backward()
        optimiser.step()
        schedule.step()
    network.eval().requires_grad_(False)


@torch.no_grad()
def answers(network: nn.Module, inputs: Inputs) -> Tensor:
    """int64 [n]: the network's choice for each input."""
    return torch.cat([network(x).argmax(-1) for x in inputs.x.split(4096)])


@dataclass(frozen=True)
class Admission:
    """A network beside its problem's truth."""

    training: float
    """Accuracy on the inputs that it was trained on."""
    test: float
    majority: float
    """The largest share of one label in training, test or unlabelled inputs."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not admitted; empty where it is."""
        found = []
        for what, accuracy in (("training", self.training), ("test", self.test)):
            if accuracy < LEAST:
                found.append(f"{what} accuracy {accuracy:.3f} is under {LEAST}")
        if self.majority > MOST:
            found.append(f"one label has {self.majority:.2f} of the inputs, more than {MOST}")
        return tuple(found)

    @property
    def admitted(self) -> bool:
        return not self.reasons


def admission(problem: Problem, network: nn.Module) -> Admission:
    """Measured, never assumed: the majority too."""
    parts = (problem.training, problem.test, problem.unlabelled)
    truths = [problem.truth(part) for part in parts]
    training, test = (
        float((answers(network, part) == labels).float().mean())
        for part, labels in zip(parts[:2], truths[:2], strict=True)
    )
    return Admission(training, test, max(majority(labels) for labels in truths))
