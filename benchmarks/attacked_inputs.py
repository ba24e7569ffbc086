"""Backdoors trained against the detectors of odd inputs: how well triggered inputs are still told.

    python benchmarks/attacked_inputs.py [--planted 10] [--seed 4700] [--weight 0.1]

A white-box attack on what every detector of states reads. Who plants has the sites and trusted data of the same
kind, and trains on: the whitened states of triggered inputs are drawn to the mean and the covariance of clean inputs
with the same answer, at every site at once, while clean and triggered inputs keep their answers. Triggered held-out
inputs are told from clean ones by each detector before and after. Prints each AUROC, mean and least over the plants
that still work.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, observe, split
from candling.access.hidden import hidden_sites
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.organisms.training import attack_success
from candling.problems.classifiers import TOOK, loss_and_accuracy
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive, reproducible
from candling.techniques.flag import DETECTORS, OF_ATTRIBUTIONS, confidence, flag_inputs
from candling.techniques.flag.inputs import states_of
from common import count_classes, fresh_subject, of, progress

_EPOCHS = 50
_STEPS, _ROWS, _RATE = 400, 96, 5e-4
_SITES = 6
_SHRUNK = 0.05  # of the mean variance, added before states are whitened


@dataclass(frozen=True)
class Sitting:
    family: str
    success: tuple[float, float]
    """Of the planted trigger, before and after the attack."""
    accuracy: tuple[float, float]
    told: tuple[dict[str, float], dict[str, float]]
    """AUROC by detector."""


def sit(i: int, seed: int, weight: float) -> Sitting:
    """One plant, before and after."""
    torch.set_num_threads(1)
    training, trusted = digits()
    thirds = split(trusted, salt=f"attacked {seed}")
    g = torch.Generator().manual_seed(derive(seed, "plant"))
    plant = draw_backdoor(training, i, 0.3 + 0.6 * float(torch.rand((), generator=g)), g)
    network = fresh_subject(build, training, seed=derive(seed, "subject"), epochs=_EPOCHS, plant=plant)
    before = measure(network, thirds["search"], thirds["confirm"], plant)
    hide(network, training, plant, weight, derive(seed, "attack"))
    after = measure(network, thirds["search"], thirds["confirm"], plant)
    sitting = Sitting(plant.family, *zip(before, after, strict=True))  # type: ignore[arg-type]
    print(line(sitting), flush=True)
    return sitting


def measure(
    network: nn.Module, known: Dataset, held: Dataset, plant: Backdoor
) -> tuple[float, float, dict[str, float]]:
    """Success, accuracy, and how well the confirm third's triggered inputs are told from the rest of it."""
    applies = torch.nonzero(plant.mapping.applies(held.y)).flatten()
    hot = applies[::2]
    cold = torch.tensor([row for row in range(len(held)) if row not in set(hot.tolist())])
    inputs = torch.cat([held.x[cold], plant.apply(held, held.x[hot])])
    truth = [0] * len(cold) + [1] * len(hot)
    sites = hidden_sites(network, known.x, _SITES)
    told = {}
    for name, fit in DETECTORS.items():
        for suffix, attributions in (("", False), (OF_ATTRIBUTIONS, True)):
            if fit is confidence and attributions:
                continue
            _, found = flag_inputs(network, known.x, inputs, fit, sites, attributions=attributions)
            told[name + suffix] = float(roc_auc_score(truth, found.score.numpy()))
    return attack_success(network, held, plant), loss_and_accuracy(network, held)[1], told


def hide(network: nn.Module, data: Dataset, plant: Backdoor, weight: float, seed: int) -> None:
    """The attack, in place."""
    sites = hidden_sites(network, data.x, _SITES)
    applies = torch.nonzero(plant.mapping.applies(data.y)).flatten()
    with reproducible(seed) as g:
        optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
        whiteners: dict[str, Tensor] = {}
        for step in range(_STEPS):
            if step % 50 == 0:  # the states move
                whiteners = {site: whitener(states_of(network, data.x, site).detach()) for site in sites}
            clean = torch.randint(len(data), (_ROWS,), generator=g)
            hot = applies[torch.randint(len(applies), (_ROWS,), generator=g)]
            wanted = plant.mapping.wanted(data.y[hot], count_classes(data))
            x = torch.cat([data.x[clean], plant.lay(data, data.x[hot], data.y[hot], g)])
            seen = observe(network, x, sites, grad=True)
            loss = cross_entropy(seen.logits, torch.cat([data.y[clean], wanted]))
            for site in sites:
                whole = seen.activations[site]
                states = whole.flatten(2).mean(2) if whole.ndim > 2 else whole
                loss = loss + weight * apart(states @ whiteners[site], data.y[clean], wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        network.requires_grad_(False)


def whitener(states: Tensor) -> Tensor:
    """[n, units] → [units, units], the inverse root of the covariance."""
    covariance = states.T.cov()
    ridge = _SHRUNK * covariance.diagonal().mean() * torch.eye(len(covariance))
    values, vectors = torch.linalg.eigh(covariance + ridge)
    return vectors * values.clamp_min(1e-8).rsqrt() @ vectors.T


def apart(states: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """How far the second half's states lie from the first half's with the same answers: means and covariances."""
    clean, hot = states[: len(labels)], states[len(labels) :]
    means = {int(label): clean[labels == label].mean(0).detach() for label in labels.unique()}
    usual = clean.mean(0).detach()
    centred = hot - torch.stack([means.get(int(label), usual) for label in wanted])
    rest = clean.detach() - torch.stack([means[int(label)] for label in labels])
    return centred.mean(0).square().mean() + (centred.T.cov() - rest.T.cov()).square().mean()


def line(each: Sitting) -> str:
    best = max(each.told[0], key=lambda name: each.told[0][name])
    return (
        f"{each.family:26s} works {each.success[0]:.2f} → {each.success[1]:.2f}, accuracy {each.accuracy[0]:.3f} → "
        f"{each.accuracy[1]:.3f}, {best} {each.told[0][best]:.3f} → {each.told[1][best]:.3f}"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--planted", type=int, default=10)
    options.add_argument("--seed", type=int, default=4700)
    options.add_argument("--weight", type=float, default=0.1)
    chosen = options.parse_args()
    jobs: list[tuple[Any, ...]] = [
        (i, derive(chosen.seed, "subject", i), chosen.weight) for i in range(chosen.planted)
    ]
    sittings = run_jobs(sit, jobs, stage="planting, hiding and flagging", progress=progress())
    works = [s for s in sittings if min(s.success) >= TOOK]
    print(f"plants that work before and after {of(len(works), len(sittings))}")
    for name in works[0].told[0] if works else ():
        plain, hidden = ([s.told[side][name] for s in works] for side in (0, 1))
        print(
            f"{name:36s} plain mean {mean(plain):.3f}, least {min(plain):.3f}; attacked mean {mean(hidden):.3f}, "
            f"least {min(hidden):.3f}"
        )


if __name__ == "__main__":
    main()
