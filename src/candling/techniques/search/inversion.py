"""Trigger inversion: the smallest change that sends inputs where a mapping says.

Question: is there a trigger, and how small can it be?
Source: Wang et al., Neural Cleanse, IEEE S&P 2019, eq. 3 (mask and pattern, cross-entropy + λ‖mask‖₁, λ
    adapted to the success rate); the additive form minimises ‖δ‖₂ instead.
Inputs: network [n, ...] → [n, K]; data x [n, *input]; parts. Score −log size, size in cells or input units.
Cost: `rows` × `steps` forward and as many backward passes for each part.
Known failures: triggers as large as a natural change of class (a quarter of the image); a clean network
    has a trigger too, so a size means nothing without the same part in clean networks; with few rows a
    recovered trigger must be refined before its success is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset
from candling.evidence.measurement import Cost
from candling.maths.triggers import apply_trigger
from candling.techniques.search.contract import Found, FoundTrigger, Part, mask_shape


@dataclass(frozen=True)
class Settings:
    """Chosen on one real BadNet and on digits networks with all six plant families: none was left out."""

    steps: int = 60
    rows: int = 16
    """Inputs in each step, for each part."""
    rate: float = 0.4
    """Adam's step, in logits of mask and pattern."""
    additive_rate: float = 0.1
    """Adam's step of an additive trigger, as a share of the input range."""
    success: float = 0.99
    """A trigger works when this share of the step's rows follows it."""


_SWEEP = {
    ("source-specific", "patch"): Settings(rows=4, steps=40),  # K(K − 1) parts, so less for each
    ("all-to-all", "patch"): Settings(rows=4),  # no clean network has such a trigger: easily told
    ("all-to-one", "additive"): Settings(rows=8, steps=40),  # one variable an input cell: quick
}
_REFINE = Settings(rows=64, steps=100, rate=0.1, additive_rate=0.02)
_LEVEL = 1.3  # λ grows by this factor on success and shrinks by its 1.5th power on failure
_LAMBDA = (1e-5, 1e-2, 1e3)  # smallest, first, largest


def invert(
    network: nn.Module,
    data: Dataset,
    parts: Sequence[Part],
    *,
    seed: int,
    batch: int = 2048,
) -> Found:
    """The smallest working trigger of each part. Every network sees the same rows for the same seed.

    batch: most inputs in one forward pass; parts are taken in blocks that fit.
    """
    blocks = _blocks(parts, batch)
    return _join(parts, [_invert_block(network, data, b, seed, _settings(b[0]), start=None) for b in blocks])


def sweep_passes(parts: Sequence[Part]) -> int:
    """Forward passes that `invert` takes on these parts, and as many backward."""
    return sum(settings.rows * settings.steps for settings in map(_settings, parts))


def refine(network: nn.Module, data: Dataset, part: Part, start: FoundTrigger, *, seed: int) -> Found:
    """The same search for one part, from where it ended, with more rows: what gate 2 puts to the test."""
    return _invert_block(network, data, [part], seed, _REFINE, start=start)


def _settings(part: Part) -> Settings:
    return _SWEEP.get((part.group, part.form), Settings())


def _blocks(parts: Sequence[Part], batch: int) -> list[list[Part]]:
    """Runs of parts alike in group and form, each small enough for one forward pass."""
    blocks: list[list[Part]] = []
    for part in parts:
        last = blocks[-1] if blocks else None
        alike = last is not None and (last[0].group, last[0].form) == (part.group, part.form)
        if last is not None and alike and (len(last) + 1) * _settings(part).rows <= batch:
            last.append(part)
        else:
            blocks.append([part])
    return blocks


def _invert_block(
    network: nn.Module,
    data: Dataset,
    parts: Sequence[Part],
    seed: int,
    settings: Settings,
    start: FoundTrigger | None,
) -> Found:
    generator = torch.Generator().manual_seed(seed)
    device = data.x.device
    form = _FORMS[parts[0].form](data, len(parts), settings, generator, start)
    optimiser = torch.optim.Adam(form.variables, form.rate, betas=(0.5, 0.9))
    eligible = torch.stack([p.mapping.applies(data.y) for p in parts]).float().cpu()
    wanted = torch.stack([p.mapping.wanted(data.y, data.classes) for p in parts])
    best = form.nothing(len(parts)) if start is None else form.given(start)
    # What refinement starts from may not work well enough: the first that does replaces it, though larger.
    unproven = torch.full((len(parts),), start is not None, device=device)
    level = torch.full((len(parts),), _LAMBDA[1] / form.unit, device=device)
    columns = torch.arange(len(parts), device=device)[:, None]
    for _ in range(settings.steps):
        rows = torch.multinomial(eligible, settings.rows, replacement=True, generator=generator).to(device)
        mask, shift, size = form.now()
        x = apply_trigger(data.x[rows], mask[:, None], shift[:, None], data.low, data.high)
        logits = network(x.flatten(0, 1)).view(len(parts), settings.rows, -1)
        target = wanted[columns, rows]
        loss = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        loss = loss.view(len(parts), settings.rows).mean(1)
        gradients = torch.autograd.grad((loss + level * size).sum(), form.variables)
        with torch.no_grad():
            works = (logits.argmax(-1) == target).float().mean(1) >= settings.success
            better = works & ((size < best[2]) | unproven)
            unproven &= ~better
            for kept, new in zip(best, (mask, shift, size), strict=True):
                kept[better] = new[better]
            level = torch.where(works, level * _LEVEL, level / _LEVEL**1.5)
            level = level.clamp(_LAMBDA[0] / form.unit, _LAMBDA[2] / form.unit)
        for variable, gradient in zip(form.variables, gradients, strict=True):
            variable.grad = gradient
        optimiser.step()
    passes = settings.steps * settings.rows * len(parts)
    mask, shift, size = (t.cpu() for t in best)
    cost = Cost(forward=passes, backward=passes)
    return Found(tuple(parts), -torch.log(size / form.unit), size, mask, shift, cost)


class _Patch:
    """mask = sigmoid(a), one for all channels; pattern = low + (high − low)·sigmoid(b). Size: ‖mask‖₁."""

    unit = 1.0

    def __init__(
        self, data: Dataset, n: int, settings: Settings, g: torch.Generator, start: FoundTrigger | None
    ) -> None:
        self.low, self.span = data.low, (data.high - data.low).clamp(min=1e-6)
        self.rate = settings.rate
        self.mask_shape, self.shape, self.device = mask_shape(data), data.x.shape[1:], data.x.device
        noise = [0.1 * torch.randn((n, *s), generator=g) for s in (self.mask_shape, self.shape)]
        if start is None:
            logits = [noise[0] - 1.5, noise[1]]
        else:
            pattern = (start.shift / start.mask.clamp(min=1e-6) - self.low.cpu()) / self.span.cpu()
            logits = [t.clamp(1e-3, 1 - 1e-3).logit()[None] for t in (start.mask, pattern)]
        self.variables = [t.to(self.device).requires_grad_() for t in logits]

    def now(self) -> tuple[Tensor, Tensor, Tensor]:
        mask = self.variables[0].sigmoid()
        pattern = self.low + self.span * self.variables[1].sigmoid()
        return mask, mask * pattern, mask.flatten(1).sum(1)

    def given(self, start: FoundTrigger) -> list[Tensor]:
        """The trigger to start from: kept unless a smaller one works."""
        mask, shift = (t[None].to(self.device, copy=True) for t in (start.mask, start.shift))
        return [mask, shift, mask.flatten(1).sum(1)]

    def nothing(self, n: int) -> list[Tensor]:
        """What a part that never works is left with: everything covered by the middle of the range."""
        middle = (self.low + self.span / 2).expand(self.shape)
        cells = float(math.prod(self.mask_shape))
        sizes = torch.full((n,), cells, device=self.device)
        mask = torch.ones((n, *self.mask_shape), device=self.device)
        return [mask, middle.expand(n, *self.shape).clone(), sizes]


class _Additive:
    """x + δ, δ in input units. Size: ‖δ‖₂."""

    def __init__(
        self, data: Dataset, n: int, settings: Settings, g: torch.Generator, start: FoundTrigger | None
    ) -> None:
        span = (data.high - data.low).clamp(min=1e-6).expand(data.x.shape[1:])
        self.span, self.mask_shape, self.device = span, mask_shape(data), data.x.device
        self.unit = float(span.square().mean().sqrt())
        self.rate = settings.additive_rate
        first = 0.01 * torch.randn((n, *span.shape), generator=g)
        if start is not None:
            first = (start.shift / span.cpu())[None]
        self.variables = [first.to(self.device).requires_grad_()]

    def now(self) -> tuple[Tensor, Tensor, Tensor]:
        shift = self.variables[0] * self.span
        size = shift.flatten(1).square().sum(1).add(1e-12).sqrt()
        return torch.zeros((len(shift), *self.mask_shape), device=self.device), shift, size

    def given(self, start: FoundTrigger) -> list[Tensor]:
        mask, shift = (t[None].to(self.device, copy=True) for t in (start.mask, start.shift))
        return [mask, shift, shift.flatten(1).square().sum(1).sqrt()]

    def nothing(self, n: int) -> list[Tensor]:
        size = torch.full((n,), float(self.span.square().sum().sqrt()), device=self.device)
        mask = torch.zeros((n, *self.mask_shape), device=self.device)
        return [mask, torch.zeros((n, *self.span.shape), device=self.device), size]


_FORMS: dict[str, type[_Patch] | type[_Additive]] = {"patch": _Patch, "additive": _Additive}


def _join(parts: Sequence[Part], pieces: list[Found]) -> Found:
    cost = sum((p.cost for p in pieces), Cost(forward=0, backward=0))
    return Found(
        parts=tuple(parts),
        score=torch.cat([p.score for p in pieces]),
        size=torch.cat([p.size for p in pieces]),
        mask=torch.cat([p.mask for p in pieces]),
        shift=torch.cat([p.shift for p in pieces]),
        cost=cost,
    )
