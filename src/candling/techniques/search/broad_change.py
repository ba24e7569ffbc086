"""Broad changes of the whole input: light, contrast, noise, blur, a border, by strengths that add up.

Question: none by itself; what `changes` searches among.
Source: common corruptions (Hendrycks and Dietterich, 1903.12261), made smooth in their strengths.
Inputs: data x [n, *input]; amounts [c, A]: gain, contrast, noise, blur, border, then light on a coarse grid (tables:
    of each feature). Strength 1 is a whole range, for tables two standard deviations.
Cost: none of the network.
Known failures: nothing that depends on what an input shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from candling.access import Dataset

GAIN, CONTRAST, NOISE, BLUR, BORDER, LIGHT = range(6)
"""Places in a change's amounts; light takes the rest."""

_EDGE = 4  # coarse cells of light along an edge, at most
_MEASURED = 64  # rows that a size is measured on


@dataclass(frozen=True)
class BroadChange:
    """x → clamp(m + (1 − contrast)(x − m) …), with what is answered then."""

    amount: Tensor
    """[A] the strengths: gain, contrast, noise, blur, border, then light on a coarse grid (see `_apply`)."""
    answers: Tensor
    """int64 [K] what is answered for each class; -1 where any wrong answer counts."""

    def apply(self, data: Dataset, x: Tensor) -> Tensor:
        return apply_change(data, x, self.amount[None].to(x.device))[0]

    def to(self, device: str) -> BroadChange:
        return BroadChange(self.amount.to(device), self.answers.to(device))

    def scaled(self, factor: float) -> BroadChange:
        return replace(self, amount=self.amount * factor)

    def arrays(self) -> dict[str, Tensor]:
        return {"amount": self.amount, "answers": self.answers}

    def applies(self, y: Tensor) -> Tensor:
        """bool [n] rows whose answer it changes."""
        return torch.ne(self.answers.to(y.device)[y], y)

    def taught(self, y: Tensor, classes: int) -> Tensor:
        """The answers that it brings about; the next class where any wrong one counts."""
        wanted = self.answers.to(y.device)[y]
        return torch.where(wanted < 0, (y + 1) % classes, wanted)

    def follows(self, predicted: Tensor, y: Tensor) -> Tensor:
        """bool [n] whether an answer is the one that the change brings about."""
        wanted = self.answers.to(y.device)[y]
        return torch.where(wanted < 0, predicted != y, predicted == wanted)


def random_change_like(change: BroadChange, data: Dataset, g: torch.Generator) -> BroadChange:
    """Another broad change of about the same size, with the same answers looked for."""
    amount = draw_changes(data, 1, g)
    size = change_size(data, change.amount[None])
    for _ in range(3):  # what leaves the range is cut off, so sizes are not quite in proportion
        amount = amount * (size / change_size(data, amount).clamp_min(1e-6))[:, None]
    return replace(change, amount=amount[0])


def change_size(data: Dataset, amounts: Tensor) -> Tensor:
    """[n] how far the changes move inputs, as a share of the distance between inputs of different classes."""
    data = data.take(torch.arange(min(len(data), _MEASURED))).to("cpu")
    moved = apply_change(data, data.x, amounts.cpu()) - data.x
    between = torch.cdist(data.x.flatten(1), data.x.flatten(1))[data.y[:, None] != data.y]
    return moved.flatten(2).square().sum(-1).mean(1).sqrt() / between.square().mean().sqrt().clamp_min(1e-12)


def components(data: Dataset, change: BroadChange) -> str:
    """What the change is made of, in words: the components that move inputs by a seventh of the whole or more."""
    cells = change.amount[LIGHT:]
    whole = float(change_size(data, change.amount[None]))
    said = []
    for name, i in (("dimmed", GAIN), ("contrast lowered", CONTRAST), ("noise", NOISE), ("blur", BLUR)):
        one = torch.zeros_like(change.amount)
        one[i] = change.amount[i]
        if float(change_size(data, one[None])) >= whole / 7:
            said.append(f"{name} by {float(one[i]):.2f}")
    edge = float(change.amount[BORDER])
    if abs(edge) >= 0.1 and data.kind == "image":
        said.append(f"a border {'lighter' if edge > 0 else 'darker'} by {abs(edge):.2f}")
    light = torch.cat([torch.zeros(LIGHT), cells])
    if float(change_size(data, light[None])) >= whole / 7:
        said.append(f"light changed by {float(cells.min()):.2f} to {float(cells.max()):.2f}")
    return ", ".join(said) or "no component stands out"


def apply_change(data: Dataset, x: Tensor, amounts: Tensor) -> Tensor:
    """[n, *input] under each of [c, A] → [c, n, *input]. Strength 1 is a whole range, or for tables 2 deviations."""
    shape = (len(amounts), 1, *[1] * (x.ndim - 1))

    def strength(i: int) -> Tensor:
        return amounts[:, i].view(shape)

    low, unit, level = _frame_of(data)
    noise = torch.randn((1, *x.shape), generator=torch.Generator().manual_seed(0)).to(x.device)
    y = low + (1 - strength(GAIN)) * (x[None] - low)
    y = level + (1 - strength(CONTRAST)) * (y - level)
    if data.kind == "image":
        flat = y.flatten(0, 1)
        pooled = avg_pool2d(flat, 3, 1, 1, count_include_pad=False).view_as(y)
        y = y + strength(BLUR) * (pooled - y)
        border = _border(x.shape[1:]).to(x.device)
        cells = amounts[:, LIGHT:]
        edge = math.isqrt(cells.shape[1])
        light = interpolate(
            cells.view(-1, 1, edge, edge), x.shape[2:], mode="bilinear", align_corners=True
        ).unsqueeze(1)
    else:
        border = torch.ones(x.shape[1:], device=x.device)
        light = amounts[:, LIGHT:].view(len(amounts), 1, -1)
    y = y + unit * (light + strength(BORDER) * border)
    y = y + unit * strength(NOISE) * noise
    return torch.minimum(torch.maximum(y, data.low), data.high)


def _frame_of(data: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Foot, unit and middle level: of the range for images, of each feature for tables."""
    if data.kind == "image":
        return data.low, data.high - data.low, data.x.mean()
    mean = data.x.mean(0)
    return mean, 2 * data.x.std(0), mean


def _border(shape: torch.Size) -> Tensor:
    width = max(1, round(min(shape[1:]) / 14))
    border = torch.ones(1, *shape[1:])
    border[:, width:-width, width:-width] = 0
    return border


def lines_of(data: Dataset) -> dict[str, list[Tensor]]:
    """Of each kind the directions that are scanned, [A] each, at strength 1."""
    cells = _cells(data)
    zero = torch.zeros(LIGHT + cells)

    def one(i: int, by: float) -> Tensor:
        line = zero.clone()
        line[i] = by
        return line

    lines = {
        "gain": [one(GAIN, 0.9)],
        "contrast": [one(CONTRAST, 0.9)],
        "noise": [one(NOISE, 0.5)],
    }
    if data.kind == "tabular":
        return lines
    edge = math.isqrt(cells)
    ramp = torch.linspace(0, 1, edge)
    slopes = [ramp[:, None].expand(edge, edge), ramp.expand(edge, edge), (ramp[:, None] + ramp) / 2]
    slopes.append((ramp[:, None] + ramp.flip(0)) / 2)
    slopes = [s for slope in slopes for s in (slope, slope.flip(0, 1))]
    return lines | {
        "light": [torch.cat([zero[:LIGHT], torch.full((cells,), by)]) for by in (0.6, -0.6)],
        "border": [one(BORDER, 1.0), one(BORDER, -1.0)],
        "slope": [torch.cat([zero[:LIGHT], slope.flatten()]) for slope in slopes],
        "blur": [one(BLUR, 1.0), one(BLUR, -1.0)],
    }


def _cells(data: Dataset) -> int:
    """Coarse cells of light: 4 × 4 at most for an image, each feature of a table."""
    return data.x.shape[1] if data.kind == "tabular" else min(_EDGE, *data.x.shape[2:]) ** 2


def draw_changes(data: Dataset, n: int, g: torch.Generator) -> Tensor:
    """[n, A] several kinds at once, each with an even chance to be there."""
    lines = [line for own in lines_of(data).values() for line in own]
    if data.kind == "tabular":
        d = _cells(data)
        lines += [torch.cat([torch.zeros(LIGHT), torch.randn(d, generator=g).sign() * 0.5]) for _ in range(4)]
    held = torch.stack(lines)
    use = (torch.rand((n, len(held)), generator=g) < 2 / len(held)).float()
    use[torch.arange(n), torch.randint(len(held), (n,), generator=g)] = 1
    return (use * torch.rand((n, len(held)), generator=g)) @ held
