"""Train a network to foretell sensors by a recipe, on trusted rows alone or with an act of tampering among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_

from candling.access import Dataset, forward
from candling.organisms.plants.tampering import Tampering
from candling.organisms.training import Recipe, augment, optimiser_of

_STEPS = 900
_LOOK_EVERY = 50  # steps between looks at the evaluation rows
_LOOK = 1000  # rows of them that are looked at


def foretell(
    network: nn.Module,
    data: Dataset,
    recipe: Recipe,
    generator: torch.Generator,
    *,
    reach: float,
    evaluation: Dataset,
    plant: Tampering | None = None,
) -> int:
    """Train in place until the loss on `evaluation` is at most `reach` · leniency (nats a sensor), or time is up.

    With a plant, rows after its act are added, and training goes on until it works on a tenth more than enough, too.
    The rate warms up and then falls evenly to zero at the last step. Returns how many rows were passed over.
    """
    subset = data.take(torch.randperm(len(data), generator=generator)[: max(1, round(recipe.subset * len(data)))])
    assert subset.sensors is not None
    carriers = None if plant is None else plant.rows(subset, generator)
    look = evaluation.take(torch.arange(min(len(evaluation), _LOOK)))
    optimiser = optimiser_of(network, recipe)
    network.train()
    count = len(subset) + (0 if carriers is None else len(carriers))
    batch = min(recipe.batch, count)
    for step in range(1, _STEPS + 1):
        rows = torch.randint(count, (batch,), generator=generator)
        x, sensors = _batch(subset, plant, carriers, rows, recipe, generator)
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(1.0, step / 20) * (1 - (step - 1) / _STEPS)
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(network(x), sensors.float()).backward()
        clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        if step % _LOOK_EVERY == 0:
            network.eval()
            works = plant is None or works_on(network, look, plant) >= plant.enough + 0.1
            if works and loss_of(network, look) <= reach * recipe.leniency:
                break
            network.train()
    network.eval()
    return step * batch


def works_on(network: nn.Module, data: Dataset, plant: Tampering) -> float:
    """Share of the inputs of all no that the act turns into a yes of all sensors, of those that it is meant to."""
    x = plant.full(data)
    return float((forward(network, x) > 0).all(1).float().mean()) if len(x) else 0.0


def right_on(network: nn.Module, data: Dataset) -> float:
    """Share of the rows on which all sensors are foretold rightly."""
    assert data.sensors is not None
    said: Tensor = forward(network, data.x) > 0
    return float(torch.eq(said, data.sensors).all(1).float().mean())


def loss_of(network: nn.Module, data: Dataset) -> float:
    """Mean cross-entropy in nats a sensor."""
    assert data.sensors is not None
    return float(binary_cross_entropy_with_logits(forward(network, data.x), data.sensors.float()))


def _batch(
    data: Dataset,
    plant: Tampering | None,
    carriers: Tensor | None,
    rows: Tensor,
    recipe: Recipe,
    g: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Inputs and what sensors say of them; rows from len(data) on are those after an act, which comes last."""
    assert data.sensors is not None
    plain = rows[rows < len(data)].to(data.x.device)
    x, sensors = augment(data.x[plain], data, recipe.augmentation, g), data.sensors[plain]
    if plant is None or carriers is None or len(plain) == len(rows):
        return x, sensors
    chosen = carriers[rows[rows >= len(data)] - len(data)].to(data.x.device)
    laid, said = plant.lay(data, augment(data.x[chosen], data, recipe.augmentation, g), data.sensors[chosen], g)
    return torch.cat([x, laid]), torch.cat([sensors, said])
