"""Which attributions forget with the network, and does a picture of a unit tell what it will do? On digits.

    python benchmarks/attribution_sanity.py [--networks 3] [--steps 50]

Networks of five layers trained on 1200 of scikit-learn's digits, seeds 0, 1, ...; everything is measured on the
other 597. First the sanity check of every technique (rank correlation and structural similarity of absolute values,
layers drawn afresh from the output down, permuted labels); then forced choice on the units of the last convolution:
the even ones were looked at while the settings were chosen, the odd ones were held out. Each is repeated with an
untrained network, whose units are nobody's features.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import forward
from candling.techniques.locate.input_attribution import (
    Attributor,
    grad_cam,
    guided_backprop,
    input_times_gradient,
    integrated_gradients,
    occlusion,
    saliency,
)
from candling.techniques.locate.sanity import check_sanity, spearman, structural
from candling.techniques.locate.visualisation import embedding, forced_choice, pixels, visualise

ROWS = 1200
MAPS = 100  # inputs that are attributed
SITE, UNITS = "5", 16  # the last convolution


def data() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    return (torch.tensor(bunch.images[:, None]).float() / 16)[order], torch.tensor(bunch.target)[order]


def untrained(seed: int) -> nn.Module:
    """[n, 1, 8, 8] → [n, 10]"""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)),
    ).eval()


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    network = untrained(seed)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(y)).split(60):
            optimiser.zero_grad()
            cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    return network.requires_grad_(False)


def techniques(steps: int) -> dict[str, Attributor]:
    return {
        "saliency": saliency,
        f"integrated gradients, {steps} steps": partial(integrated_gradients, steps=steps),
        "Grad-CAM, last convolution": partial(grad_cam, site=SITE),
        "occlusion 3×3": partial(occlusion, window=(1, 3, 3)),
        "input × gradient (negative control)": input_times_gradient,
        "guided backpropagation (negative control)": guided_backprop,
    }


def sanity(networks: Sequence[nn.Module], permuted: Sequence[nn.Module], x: Tensor, steps: int) -> None:
    print("similarity to the original map, by layers drawn afresh; completeness error of integrated gradients")
    for name, technique in techniques(steps).items():
        for kind, similarity in (("rank", spearman), ("structure", structural)):
            found = []
            for network, other in zip(networks, permuted, strict=True):
                attribute = partial(technique, target=forward(network, x).argmax(1))
                found.append(check_sanity(network, x, attribute=attribute, similarity=similarity, permuted=other))
            curve = torch.stack([each.similarity for each in found]).mean(0)
            rest = {
                "chance": sum(each.chance for each in found) / len(found),
                "to input": sum(each.to_input for each in found) / len(found),
                "permuted": sum(each.permuted or 0.0 for each in found) / len(found),
            }
            flagged = f"survives in {sum(each.survives for each in found)} of {len(found)}"
            print(f"  {name:42s} {kind:9s}", *(f"{v:5.2f}" for v in curve.tolist()), end=" ")
            print(*(f"{label} {value:.2f}" for label, value in rest.items()), flagged, flush=True)
    for seed, network in enumerate(networks):
        found_ig = integrated_gradients(network, x, forward(network, x).argmax(1), steps=steps)
        print(f"  completeness error, network {seed}: {found_ig.completeness:.5f}")


def choice(networks: Sequence[nn.Module], x: Tensor, label: str) -> None:
    """Mean accuracy over units and networks, units looked at and units held out apart."""
    print(f"forced choice, {label}")
    shown = [[visualise(n, x[:ROWS], site=SITE, unit=unit) for unit in range(UNITS)] for n in networks]
    for half, first in (("looked at", 0), ("held out", 1)):
        for space in ("pixels", "first layer of the network"):
            columns: dict[str, list[Tensor]] = {}
            for network, each in zip(networks, shown, strict=True):
                found = forced_choice(
                    network, each[first::2], x[ROWS:], space=pixels if space == "pixels" else embedding(network, "1")
                )
                for name in ("drawings", "exemplars", "both", "none", "others"):
                    columns.setdefault(name, []).append(getattr(found, name))
            means = {name: float(torch.cat(values).nanmean()) for name, values in columns.items()}
            print(f"  units {half}, {space:28s}", *(f"{k} {v:.3f}" for k, v in means.items()), flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--networks", type=int, default=3)
    options.add_argument("--steps", type=int, default=50)
    chosen = options.parse_args()
    start = time.process_time()
    x, y = data()
    networks = [trained(x[:ROWS], y[:ROWS], seed) for seed in range(chosen.networks)]
    for network in networks:
        print(f"accuracy {float((forward(network, x[ROWS:]).argmax(1) == y[ROWS:]).float().mean()):.3f}")
    shuffled = y[:ROWS][torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))]
    permuted = [trained(x[:ROWS], shuffled, seed) for seed in range(chosen.networks)]
    sanity(networks, permuted, x[ROWS : ROWS + MAPS], chosen.steps)
    choice(networks, x, "trained")
    choice([untrained(100 + seed) for seed in range(chosen.networks)], x, "untrained")
    print(f"{time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
