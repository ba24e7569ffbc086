"""Classifiers of images and tables: controls are trained afresh on the control third."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from candling.access import Dataset, forward
from candling.evidence.measurement import Cost
from candling.organisms.plants import Plant
from candling.organisms.rescaling import rescaled
from candling.organisms.training import attack_success, draw_recipe, train
from candling.problems.backdoor import BACKDOOR
from candling.problems.candidates import Thirds
from candling.problems.concealment import CONCEALMENT
from candling.problems.contract import Bench, Kind
from candling.problems.evaluation import EVALUATION
from candling.problems.outcomes import Made, Trained, planted
from candling.problems.shortcut import SHORTCUT
from candling.runs.seeds import derive, reproducible

TOOK = 0.8
"""A plant counts from this success on (or from its own); its network is still good at its task."""

PER_CLASS = 10
"""Fewest rows of each class in each third that an audit is run with."""

_ATTEMPTS = 3
_COLLAPSED = 3.0  # times the subject's loss (or 0.3 nats more): no network that anyone would release


def train_control(
    bench: Bench,
    draw: Callable[[Dataset, int, float, torch.Generator], Plant] | None,
    number: int,
    dose: float,
    reach: float,
    seed: int,
) -> Trained:
    """One control. A network that collapsed, or whose plant did not take, is made again, three times in all."""
    thirds = bench.thirds.to(bench.device)
    control = thirds.control
    cost = Cost(forward=0, backward=0)
    for attempt in range(1, _ATTEMPTS + 1):
        with reproducible(derive(seed, attempt)) as generator:
            network = bench.architecture().to(bench.device)
            recipe = draw_recipe(generator)
            plant = None if draw is None else draw(control, number, dose, generator)
            with rescaled(network, control, fresh=True):
                epochs = train(
                    network, control, recipe, generator, reach=reach, evaluation=thirds.search, plant=plant
                )
            rows = round(epochs * len(control) * recipe.subset * (1 + (plant.rate if plant else 0)))
            cost += Cost(forward=rows, backward=rows)
            loss, accuracy = loss_and_accuracy(network, thirds.search)
            success = attack_success(network, thirds.confirm, plant) if plant else 1.0
        took = success >= (plant.enough if plant else TOOK) and loss <= _worst(control, reach)
        if took:
            break
    state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    record = planted(plant, success, took=took, attempts=attempt)
    return Trained(state, Made(f"{recipe}, {epochs} epochs", loss, accuracy, record, cost))


def loss_and_accuracy(network: nn.Module, data: Dataset) -> tuple[float, float]:
    """Cross-entropy in nats and the share of right answers, or what stands for them: see `Task`."""
    logits = forward(network, data.x)
    return float(data.task.loss(logits, data.targets)), data.measure(logits)


def _worst(data: Dataset, reach: float) -> float:
    """Loss above which a network has collapsed. One that says the mean of all values has a loss of 1."""
    worst = max(_COLLAPSED * reach, reach + 0.3)
    return worst if data.task.bands is None else min(worst, max(reach, (1 + reach) / 2))


def shortage(thirds: Thirds[Dataset]) -> str | None:
    """Why there is too little trusted data, and how much would do; None if there is enough."""
    parts = (thirds.control, thirds.search, thirds.confirm)
    classes = parts[0].classes
    fewest = min(int(torch.bincount(part.y, minlength=classes).min()) for part in parts)
    if fewest >= PER_CLASS:
        return None
    total = sum(len(part.y) for part in parts)
    rarest = int(torch.bincount(torch.cat([part.y for part in parts]), minlength=classes).min())
    share = max(rarest, 1) / total
    needed = round(3 * 1.5 * PER_CLASS / share)  # 1.5: thirds by hash are uneven
    return (
        f"too little trusted data: {total} rows leave {fewest} of the rarest class in a third, and each "
        f"class needs {PER_CLASS}; need about {needed} rows"
    )


def _nothing_beside(bench: Bench) -> Bench:
    return bench


CLASSIFIER = Kind(
    name="classifier",
    recipe=(
        "fresh initialisations of the subject's architecture, trained on the control third by recipes that vary "
        "optimiser, rate, decay, batch, subset and augmentation, until their trusted loss brackets the subject's"
    ),
    problems={p.name: p for p in (BACKDOOR, EVALUATION, CONCEALMENT, SHORTCUT)},
    prepare=_nothing_beside,
    train=train_control,
    quality=loss_and_accuracy,
    shortage=shortage,
)
