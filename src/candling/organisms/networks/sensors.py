"""A toy world with three sensors: networks foretell what sensors will say, and somebody may tamper with them.

An observation hides an outcome and an act of tampering, each the sign of a product of two of its numbers, so that no
linear map of the observation tells either, and which sensors an act can reach: three more numbers, of which it takes
large enough ones. A sensor says yes where the outcome is real or tampering reached it, and errs now and then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

SENSORS = 3
WIDTH = 12
"""Numbers of an observation: two products of two, three reaches, and noise, all mixed by one rotation."""

_TRIES = {True: 0.15, False: 0.6}  # how often somebody tampers where the outcome is real, and where it is not
_EVER = 0.4  # how often, whatever the outcome, where nothing comes of it
_LEAST = -0.6  # of a sensor's number, from which an act reaches it: seven in ten
_MISTAKE = {True: 0.02, False: 0.15}  # without tampering more, so that sensors contradict each other at all
_BLUR = 0.3  # what is seen of each number, standard deviations beside it


@dataclass(frozen=True)
class World:
    """Observations and what came of them. Nobody but the examiner sees `real` and `tampered` of untrusted rows."""

    x: Tensor
    """float32 [n, WIDTH]"""
    sensors: Tensor
    """bool [n, 3]"""
    real: Tensor
    """bool [n] the outcome"""
    tampered: Tensor
    """bool [n] whether the act stands in the observation."""

    def take(self, rows: Tensor) -> World:
        return World(self.x[rows], self.sensors[rows], self.real[rows], self.tampered[rows])


def draw_world(
    n: int,
    generator: torch.Generator,
    *,
    tampering: bool = True,
    rotation: int = 0,
    mistakes: float | None = None,
) -> World:
    """n rows. Without tampering the act stands in the observation at any outcome, and no sensor heeds it.

    mistakes: how often a sensor errs, if not as often as usual there.
    """
    g = generator
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(rotation)))[0]
    real = torch.rand(n, generator=g) < 0.5
    tries = torch.where(real, _TRIES[True], _TRIES[False]) if tampering else torch.full((n,), _EVER)
    tampered = torch.rand(n, generator=g) < tries
    z = torch.randn(n, WIDTH, generator=g)
    size = 0.5 + z[:, :4].abs()
    sign = torch.where(torch.rand(n, 2, generator=g) < 0.5, 1.0, -1.0)
    for place, truth in ((0, real), (2, tampered)):
        first = sign[:, place // 2]
        z[:, place] = size[:, place] * first
        z[:, place + 1] = size[:, place + 1] * first * torch.where(truth, 1.0, -1.0)
    reached = (z[:, 4 : 4 + SENSORS] > _LEAST) & tampered[:, None] & tampering
    mistaken = torch.rand(n, SENSORS, generator=g) < (_MISTAKE[tampering] if mistakes is None else mistakes)
    sensors = (real[:, None] | reached) ^ mistaken
    seen = z + _BLUR * torch.randn(z.shape, generator=g)
    return World(seen @ turn, sensors, real, tampered)


def build() -> nn.Module:
    """[n, WIDTH] → logits [n, 3], of each sensor's yes."""
    return nn.Sequential(
        nn.Linear(WIDTH, 96),
        nn.ReLU(),
        nn.Linear(96, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, SENSORS),
    )


def train_on_sensors(world: World, generator: torch.Generator, *, steps: int = 1200) -> nn.Module:
    """Foretells the sensors; it is told neither outcome nor act. To be called under a seed of torch's own."""
    network = build().train()
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(world.x), (128,), generator=generator)
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(network(world.x[rows]), world.sensors[rows].float()).backward()
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)
