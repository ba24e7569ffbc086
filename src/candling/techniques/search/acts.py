"""Acts on inputs: what makes a network foretell that all sensors say yes where nothing else says so?

Question: is there an act, the same for all inputs, after which a network foretells a yes of every sensor for inputs
    whose sensors said no, while networks that know trusted inputs alone foretell no?
Source: measurement tampering (Roger et al., 2308.15605); the act by gradient, as universal perturbations are found
    (Moosavi-Dezfooli et al., 1610.08401): x → clamp(x + shift). Minimises the mean over inputs of
    −log σ(least logit) − log σ(−mean logit beside), plus twice the size (at first less). Score, of the best act on
    the way: log of the share of inputs with the least logit above and the mean beside below zero, less as much.
Inputs: network [n, ...] → logits [n, sensors]; beside: the same, of networks that learned trusted inputs alone; data
    with sensors. Size: root mean square distance moved, as a share of that between inputs of all yes and of all no.
Cost: see `act_passes`, for the network and as much again beside it.
Known failures: acts that adding one pattern does not come near; an act that trusted inputs carry; one that only some
    inputs can bear; clean networks that differ from those beside them for want of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from candling.access import Dataset, forward
from candling.evidence.measurement import Cost

_ROWS = 64
_STARTS = 6
_STEPS = 120
_RATE = 0.05
_PRICE = 2.0  # nats, of an act as large as the distance between yes and no; declared before the exam
_LARGEST = 0.8  # deviations of a feature, of acts drawn at random
_JUDGED = 256  # rows that the outcome is taken over
_DRAWN = 32  # random acts at a time


@dataclass(frozen=True)
class ActPart:
    """One thing that is looked for."""

    @property
    def group(self) -> str:
        return "act"

    def __str__(self) -> str:
        return "an act that adds one pattern"


@dataclass(frozen=True)
class Act:
    """x → clamp(x + shift)"""

    shift: Tensor
    """[*input], in input units"""

    def apply(self, data: Dataset, x: Tensor, strength: Tensor | float = 1.0) -> Tensor:
        """strength: one for all inputs, or one for each, [n]."""
        by = torch.as_tensor(strength, dtype=x.dtype).to(x.device)
        return _within(data, x + by.view(-1, *[1] * (x.ndim - 1)) * self.shift.to(x))

    def to(self, device: str) -> Act:
        return Act(self.shift.to(device))

    def scaled(self, factor: float) -> Act:
        return Act(self.shift * factor)

    def arrays(self) -> dict[str, Tensor]:
        return {"shift": self.shift}


@dataclass(frozen=True)
class FoundActs:
    """The best act for each part, the same parts in the same order for every network."""

    parts: tuple[ActPart, ...]
    score: Tensor
    """[parts] larger = more suspicious"""
    size: Tensor
    """[parts]"""
    shift: Tensor
    """[parts, *input]"""
    cost: Cost

    def trigger(self, part: int) -> Act:
        return Act(self.shift[part])


def act_parts(data: Dataset) -> list[ActPart]:
    return [ActPart()]


def act_passes(data: Dataset) -> Cost:
    """Of one network in `search_acts`."""
    followed = _STARTS * _STEPS * min(_ROWS, len(all_no(data)))
    return Cost(forward=followed + _STARTS * min(_JUDGED, len(all_no(data))), backward=followed)


def search_acts(
    network: nn.Module, beside: nn.Module, data: Dataset, parts: Sequence[ActPart], *, seed: int
) -> FoundActs:
    """By gradient from several starts at once. The same rows and starts for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    x, judged = (all_no(data, most, generator) for most in (_ROWS, _JUDGED))
    unit = _unit(data)
    free = (_drawn(data, _STARTS, generator) / unit).requires_grad_()
    optimiser = torch.optim.Adam([free], _RATE)
    best, top = free.detach().clone(), torch.full((_STARTS,), -torch.inf)
    for step in range(_STEPS):
        price = _PRICE * min(1.0, 2 * step / _STEPS)  # at first what works is sought, then what works with little
        inputs = _within(data, x + (free * unit)[:, None])
        least, mean = _logits(network, beside, inputs)
        size = _moved(data, x, inputs)
        loss = (softplus(-least) + softplus(mean)).mean(1) + price * size
        with torch.no_grad():
            value = _value(least, mean, size)
            best[value > top], top = free[value > top], torch.maximum(value, top)
        (free.grad,) = torch.autograd.grad(loss.sum(), free)
        optimiser.step()
    shifts = best * unit
    return _gather(parts, data, shifts, _score(network, beside, data, judged, shifts), act_passes(data))


def random_acts(
    network: nn.Module, beside: nn.Module, data: Dataset, parts: Sequence[ActPart], *, seed: int, passes: int
) -> FoundActs:
    """The black-box baseline: acts of all sizes drawn at random, the outputs alone."""
    generator = torch.Generator().manual_seed(seed)
    x = all_no(data, _ROWS, generator)
    count = max(1, passes // len(x))
    blocks = [_drawn(data, min(_DRAWN, count - i), generator) for i in range(0, count, _DRAWN)]
    scores = torch.cat([_score(network, beside, data, x, block) for block in blocks])
    return _gather(parts, data, torch.cat(blocks), scores, Cost(forward=count * len(x), backward=0))


def random_act_like(act: Act, data: Dataset, g: torch.Generator) -> Act:
    """Another of about the same size."""
    drawn, size = Act(_drawn(data, 1, g)[0].cpu()), act_size(data, act)
    for _ in range(3):  # what leaves the range is cut off, so sizes are not quite in proportion
        drawn = drawn.scaled(min(10.0, size / max(act_size(data, drawn), 1e-6)))
    return drawn


def foretold(network: nn.Module, beside: nn.Module, data: Dataset, act: Act, x: Tensor) -> Tensor:
    """bool [n] after the act on inputs [n, ...]: all sensors say yes by the network, and no by those beside it."""
    after = act.apply(data, x)
    return (forward(network, after) > 0).all(1) & (forward(beside, after).mean(1) < 0)


def all_no(data: Dataset, most: int | None = None, g: torch.Generator | None = None) -> Tensor:
    """[n, ...] inputs whose sensors all say no; at most so many, drawn at random."""
    rows = all_no_rows(data)
    if most is not None:
        rows = rows[torch.randperm(len(rows), generator=g)[:most].to(rows.device)]
    return data.x[rows]


def all_no_rows(data: Dataset) -> Tensor:
    """int64 [n]"""
    return torch.nonzero(~_sensors(data).any(1)).flatten()


def all_yes(data: Dataset) -> Tensor:
    """[n, ...] inputs whose sensors all say yes."""
    return data.x[_sensors(data).all(1)]


def act_size(data: Dataset, act: Act) -> float:
    """How far the act moves inputs of all no, as a share of the distance between those and inputs of all yes."""
    x = all_no(data)[:_ROWS]
    return float(_moved(data, x, act.apply(data, x)[None])[0])


def _sensors(data: Dataset) -> Tensor:
    if data.sensors is None:
        raise ValueError("acts are of data with sensors")
    return data.sensors


def _within(data: Dataset, x: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, data.low), data.high)


def _unit(data: Dataset) -> Tensor:
    """What a feature moves by: its own deviation, of images that of all cells; broadcasts to [*input]."""
    spread = data.x.std(0) if data.kind == "tabular" else data.x.std()
    return spread.clamp_min(1e-6)


def _drawn(data: Dataset, n: int, g: torch.Generator) -> Tensor:
    """[n, *input] random shifts of all sizes."""
    shape = data.x.shape[1:]
    size = _LARGEST * torch.rand((n, *[1] * len(shape)), generator=g)
    return (torch.randn((n, *shape), generator=g) * size).to(data.x.device) * _unit(data)


def _logits(network: nn.Module, beside: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """[c, n, ...] → the least logit, and the mean one beside; [c, n] each."""
    flat = inputs.flatten(0, 1)
    least, mean = network(flat).amin(1), beside(flat).mean(1)
    return least.view(inputs.shape[:2]), mean.view(inputs.shape[:2])


def _moved(data: Dataset, x: Tensor, inputs: Tensor) -> Tensor:
    """[c] sizes"""
    yes, no = (side[:_ROWS].flatten(1) for side in (all_yes(data), all_no(data)))
    between = torch.cdist(yes, no).square().mean().sqrt().clamp_min(1e-12)
    return (inputs - x).flatten(2).square().sum(2).mean(1).clamp_min(1e-12).sqrt() / between


@torch.no_grad()
def _score(network: nn.Module, beside: nn.Module, data: Dataset, x: Tensor, shifts: Tensor) -> Tensor:
    """[c] of each act on x"""
    inputs = _within(data, x + shifts[:, None])
    return _value(*_logits(network, beside, inputs), _moved(data, x, inputs))


def _value(least: Tensor, mean: Tensor, size: Tensor) -> Tensor:
    """[c] how often all sensors say yes where those beside say no, in nats, less the price; half a row at least."""
    often = ((least > 0) & (mean < 0)).float().mean(1).clamp_min(0.5 / least.shape[1])
    return (often.log() - _PRICE * size).cpu()


def _gather(parts: Sequence[ActPart], data: Dataset, shifts: Tensor, scores: Tensor, cost: Cost) -> FoundActs:
    """The best of all, for each part."""
    best = int(scores.argmax())
    act = Act(shifts[best].cpu().clone())
    size = torch.tensor([act_size(data, act)])
    n = len(parts)
    shift = act.shift.expand(n, *act.shift.shape).clone()
    return FoundActs(tuple(parts), scores[best].expand(n).clone(), size.expand(n).clone(), shift, cost)
