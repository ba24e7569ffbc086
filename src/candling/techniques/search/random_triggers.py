"""Random triggers: the black-box baseline. Try many, look at the outputs alone.

Question: is there a trigger that chance would hit upon?
Source: the simplest baseline; no gradient, no inside.
Inputs: network [n, ...] → [n, K]; data x [n, *input]; parts. Score: the highest mean probability of the
    wanted label over the tried triggers. Size is that of the trigger that reached it.
Cost: `passes` forward passes for all parts together, no backward pass.
Known failures: triggers whose exact pattern matters; a large random patch confuses clean networks too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from candling.access import Dataset
from candling.evidence.measurement import Cost
from candling.maths.triggers import apply_trigger
from candling.techniques.search.contract import Found, FoundTrigger, Part, mask_shape

_ROWS = 64  # inputs that each random trigger is tried on
_TRIGGERS = 8  # in one forward pass


def random_triggers(
    network: nn.Module, data: Dataset, parts: Sequence[Part], *, seed: int, passes: int = 65_536
) -> Found:
    """Patches (a quarter of the edge at most) and blends (opacity up to 0.4) in turn, solid or random."""
    generator = torch.Generator().manual_seed(seed)
    tries = max(1, passes // (_ROWS * _TRIGGERS))
    wanted = torch.stack([p.mapping.wanted(data.y, data.classes) for p in parts])
    applies = torch.stack([p.mapping.applies(data.y) for p in parts])
    best = torch.full((len(parts),), -1.0, device=data.x.device)
    masks = torch.zeros((len(parts), *mask_shape(data)), device=data.x.device)
    shifts = torch.zeros((len(parts), *data.x.shape[1:]), device=data.x.device)
    with torch.no_grad():
        for _ in range(tries):
            mask, shift = _draw(data, _TRIGGERS, generator)
            rows = torch.randint(len(data.y), (_ROWS,), generator=generator).to(data.x.device)
            x = apply_trigger(data.x[rows], mask[:, None], shift[:, None], data.low, data.high)
            probability = network(x.flatten(0, 1)).softmax(-1).view(_TRIGGERS, _ROWS, -1)
            scores = _mean_probability(probability, wanted[:, rows], applies[:, rows])
            top, which = scores.max(1)
            better = top > best
            best[better] = top[better]
            masks[better], shifts[better] = mask[which[better]], shift[which[better]]
    return Found(
        parts=tuple(parts),
        score=best.clamp(min=0).cpu(),  # zero where no sampled row applied
        size=_sizes(parts, masks, shifts).cpu(),
        mask=masks.cpu(),
        shift=shifts.cpu(),
        cost=Cost(forward=tries * _ROWS * _TRIGGERS, backward=0),
    )


def _mean_probability(probability: Tensor, wanted: Tensor, applies: Tensor) -> Tensor:
    """[triggers, rows, K], [parts, rows], [parts, rows] → [parts, triggers]; −1 where no row applies."""
    index = wanted[:, None, :, None].expand(-1, len(probability), -1, 1)
    each = probability[None].expand(len(wanted), -1, -1, -1).gather(-1, index)[..., 0]
    use = applies[:, None].float()
    mean = (each * use).sum(-1) / (use.sum(-1) + 1)  # +1: few rows that happen to agree prove little
    return torch.where(applies.any(1)[:, None], mean, -1.0)


def _sizes(parts: Sequence[Part], masks: Tensor, shifts: Tensor) -> Tensor:
    """In each part's own unit, as `Found.size` says."""
    cover, norm = masks.flatten(1).sum(1), shifts.flatten(1).square().sum(1).sqrt()
    return torch.where(torch.tensor([part.form == "patch" for part in parts], device=masks.device), cover, norm)


def _draw(data: Dataset, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """n random triggers as (mask [n, *mask shape], shift [n, *input])."""
    shape, cover = data.x.shape[1:], mask_shape(data)
    level = torch.rand((n, *shape), generator=g)
    solid = torch.rand((n, *[1] * len(shape)), generator=g)
    level = torch.where(torch.rand((n, *[1] * len(shape)), generator=g) < 0.5, solid.round(), level)
    pattern = data.low + (data.high - data.low) * level.to(data.x.device)
    masks = torch.zeros((n, *cover))
    for mask in masks:
        if torch.rand((), generator=g) < 0.5:
            mask += 0.05 + 0.35 * torch.rand((), generator=g)
        elif data.kind == "image":
            side = int(torch.randint(1, max(2, min(cover[1:]) // 4 + 1), (), generator=g))
            top, left = (int(torch.randint(0, edge - side + 1, (), generator=g)) for edge in cover[1:])
            mask[:, top : top + side, left : left + side] = 1
        else:
            count = int(torch.randint(1, max(2, cover[0] // 4 + 1), (), generator=g))
            mask[torch.randperm(cover[0], generator=g)[:count]] = 1
    masks = masks.to(data.x.device)
    return masks, masks * pattern


def random_like(trigger: FoundTrigger, form: str, data: Dataset, g: torch.Generator) -> FoundTrigger:
    """A random trigger of the same size: the mask elsewhere with a random pattern, or a random direction."""
    if form == "additive":
        noise = torch.randn(trigger.shift.shape, generator=g)
        return FoundTrigger(trigger.mask, noise * (trigger.shift.norm() / noise.norm()))
    if data.kind == "image":
        height, width = trigger.mask.shape[-2:]
        by = [int(torch.randint(0, edge, (), generator=g)) for edge in (height, width)]
        mask = trigger.mask.roll(by, (-2, -1))
    else:
        mask = trigger.mask[torch.randperm(len(trigger.mask), generator=g)]
    low, high = data.low.cpu(), data.high.cpu()
    pattern = low + (high - low) * torch.rand(trigger.shift.shape, generator=g)
    return FoundTrigger(mask, mask * pattern)
