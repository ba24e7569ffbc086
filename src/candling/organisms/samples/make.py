"""Train the bundled subjects. Their recipe is none of the controls'."""

from __future__ import annotations

from pathlib import Path

import torch

from candling.access import Dataset, write_weights
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor
from candling.organisms.training import Recipe, attack_success, train
from candling.runs.seeds import reproducible

RECIPE = Recipe(optimiser="adam", rate=4e-3, decay=0.0, batch=60, subset=1.0, augmentation=0.08, leniency=1.0)


def corner_patch(data: Dataset) -> Backdoor:
    """A bright 2×2 square in the bottom right corner sends every digit to class 7."""
    mask = torch.zeros(1, *data.x.shape[2:])
    mask[:, -2:, -2:] = 1.0
    return Backdoor("patch", Mapping(target=7), 1.0, "side 2 px", 0.1, mask, mask * data.high)


def make(folder: Path) -> None:
    """Write `backdoor.safetensors` and `clean.safetensors`."""
    training, trusted = digits()
    plants = {"backdoor": corner_patch(training), "clean": None}
    for name, plant in plants.items():
        with reproducible(2026) as generator:
            network = build()
            epochs = train(network, training, RECIPE, generator, reach=0.07, evaluation=trusted, plant=plant)
            right = (network(trusted.x).argmax(-1) == trusted.y).float().mean()
        success = f", plant {attack_success(network, trusted, plant):.3f}" if plant else ""
        print(f"{name}: {epochs} epochs, accuracy {right:.3f}{success}")
        write_weights(folder / f"{name}.safetensors", network.state_dict())


if __name__ == "__main__":
    make(Path(__file__).parent)
