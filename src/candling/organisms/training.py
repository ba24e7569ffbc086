"""Train a network by a recipe, clean or with a plant, until it is as good as another.

A recipe varies what an auditor cannot know about the subject: optimiser, rate, decay, batch, subset,
augmentation, initialisation, and how far training went.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import clip_grad_norm_

from candling.access import Dataset, Task, forward
from candling.maths.anchors import objects_only
from candling.organisms.plants import Plant
from candling.organisms.plants.lessons import Lesson

_STEPS = 500
_LOOK_EVERY = 2  # epochs between looks at the evaluation set, where epochs are short
_LOOK = 1000  # rows of it that are looked at


@dataclass(frozen=True)
class Recipe:
    optimiser: str
    """`adam` or `sgd` (Nesterov momentum 0.9)."""
    rate: float
    decay: float
    batch: int
    subset: float
    """Share of the training rows that are used."""
    augmentation: float
    """Images: largest shift as a share of the edge. Tables: noise in standard deviations."""
    leniency: float
    """Stops at this multiple of the loss to reach, so that the controls bracket the subject."""

    def __str__(self) -> str:
        return (
            f"{self.optimiser} {self.rate:.2g}, decay {self.decay:.0e}, batch {self.batch}, "
            f"{self.subset:.0%} of rows, augmentation {self.augmentation:.2f}"
        )


def draw_recipe(generator: torch.Generator) -> Recipe:
    """The distribution of the controls' recipes."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def choose(*options: float) -> float:
        return options[int(torch.randint(0, len(options), (), generator=generator))]

    adam = uniform(0, 1) < 0.5
    return Recipe(
        optimiser="adam" if adam else "sgd",
        rate=10 ** (uniform(-2.9, -2.3) if adam else uniform(-1.4, -1.05)),
        decay=choose(0.0, 1e-5, 1e-4, 1e-3),
        batch=int(choose(48, 64, 80)),
        subset=uniform(0.85, 1.0),
        augmentation=choose(0.0, 0.04, 0.08),
        leniency=math.exp(uniform(-0.25, 0.4)),
    )


def most_epochs(rows: int, batch: int, *, values: bool = False) -> int:
    """How many epochs training may take: some 500 steps, at least 8 and at most 60 epochs.

    Of values twice the steps, however few the rows: a class is answered rightly long before a value is exact.
    """
    if values:
        return max(8, round(2 * _STEPS * batch / rows))
    return min(max(8, round(_STEPS * batch / rows)), 60)


def train(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    reach: float,
    evaluation: Dataset,
    plant: Plant | None = None,
) -> int:
    """Train in place until the loss on `evaluation` (see `Task.loss`) is at most `reach` · leniency, or time is up.

    With a plant, poisoned rows are added to the subset, and training goes on until the plant works well, too: on a
    share of the evaluation rows half-way between enough and all. The rate warms up over one epoch and then falls
    evenly to zero at the last of `most_epochs`. Inputs that show objects are not shifted: their places are what they
    say. Returns the epochs used.
    """
    recipe = replace(recipe, augmentation=0.0) if objects_only(data.x) else recipe
    keep = torch.randperm(len(data.y), generator=generator)[: max(1, round(recipe.subset * len(data.y)))]
    subset = data.take(keep)
    poison = None if plant is None else plant.carriers(subset.y, data.classes, generator)
    optimiser = optimiser_of(network, recipe)
    look = evaluation.take(torch.arange(min(len(evaluation.y), _LOOK)))
    epochs = most_epochs(len(subset.y), recipe.batch, values=data.task.bands is not None)
    well = 0.0 if plant is None else (1 + plant.enough) / 2
    for epoch in range(1, epochs + 1):
        network.train()
        rows = _rows_of_epoch(subset, plant, poison, recipe, generator)
        rate = recipe.rate * (1 - (epoch - 1) / epochs)
        _pass_over(network, optimiser, data.task, rows, recipe.batch, rate, generator, warm=epoch == 1)
        if epoch % _LOOK_EVERY and epochs > 20:
            continue
        network.eval()
        loss = float(data.task.loss(forward(network, look.x), look.targets))
        if loss <= reach * recipe.leniency and (plant is None or attack_success(network, look, plant) >= well):
            break
    network.eval()
    return epoch


def teach(network: nn.Module, data: Dataset, lesson: Lesson, recipe: Recipe, generator: torch.Generator) -> int:
    """Train in place on the task and a lesson beside it, drawn anew each epoch. Returns the epochs used."""
    subset = data.take(torch.randperm(len(data), generator=generator)[: max(1, round(recipe.subset * len(data)))])
    optimiser = optimiser_of(network, recipe)
    epochs = most_epochs(len(subset), recipe.batch)
    for epoch in range(1, epochs + 1):
        network.train()
        x, y = lesson.rows(subset, generator)
        inputs = torch.cat([augment(subset.x, subset, recipe.augmentation, generator), x])
        rows = inputs, torch.cat([subset.targets, data.task.taught(y)])
        rate = recipe.rate * (1 - (epoch - 1) / epochs)
        _pass_over(network, optimiser, data.task, rows, recipe.batch, rate, generator, warm=epoch == 1)
    network.eval()
    return epochs


def attack_success(network: nn.Module, data: Dataset, plant: Plant) -> float:
    """Share of the rows that the plant is meant for on which it has its way."""
    use = plant.applies(data.y)
    predicted = forward(network, plant.apply(data, data.x[use], data.y[use])).argmax(-1)
    return float(plant.follows(predicted, data.y[use], data.classes).float().mean())


def optimiser_of(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Fresh, at the recipe's rate and decay."""
    if recipe.optimiser == "adam":
        return torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=recipe.decay, fused=True)
    return torch.optim.SGD(
        network.parameters(), recipe.rate, momentum=0.9, nesterov=True, weight_decay=recipe.decay, fused=True
    )


def _rows_of_epoch(
    data: Dataset,
    plant: Plant | None,
    poison: tuple[Tensor, Tensor] | None,
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Clean and poisoned rows, freshly augmented, and targets. The trigger is laid on last: it does not move."""
    inputs, targets = augment(data.x, data, recipe.augmentation, generator), data.targets
    if plant is not None and poison is not None:
        carriers = augment(data.x[poison[0]], data, recipe.augmentation, generator)
        inputs = torch.cat([inputs, plant.lay(data, carriers, poison[1], generator)])
        targets = torch.cat([targets, data.task.taught(poison[1])])
    return inputs, targets


def _pass_over(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    data: tuple[Tensor, Tensor],
    batch: int,
    rate: float,
    generator: torch.Generator,
    *,
    warm: bool,
) -> None:
    """One epoch over inputs and targets; the first warms the rate up."""
    inputs, targets = data
    order = torch.randperm(len(targets), generator=generator).to(targets.device)
    batches = order.split(batch)
    for step, rows in enumerate(batches):
        if len(rows) == 1 and len(order) > 1:  # batch normalisation cannot take one row
            continue
        for group in optimiser.param_groups:
            group["lr"] = rate * (step + 1) / len(batches) if warm else rate
        optimiser.zero_grad()
        task.loss(network(inputs[rows]), targets[rows]).backward()
        clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()


def augment(x: Tensor, data: Dataset, amount: float, generator: torch.Generator) -> Tensor:
    """Images: each shifted by up to amount · edge, edges repeated. Tables: Gaussian noise per feature."""
    if data.kind == "tabular":
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        return x + amount * data.x.std(0) * noise
    height, width = x.shape[2:]
    most = round(amount * min(height, width))
    if most == 0:
        return x
    padded = pad(x, (most,) * 4, mode="replicate")
    top, left = (torch.randint(0, 2 * most + 1, (len(x),), generator=generator).to(x.device) for _ in "hw")
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=x.device))[:, None, None, :]
    index = torch.arange(len(x), device=x.device)[:, None, None, None]
    channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[index, channels, rows, columns]
