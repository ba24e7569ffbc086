"""Shortcuts by dose: a cue for every class, which goes with the label where the content does not always.

The published distribution. Rows with a cue stand beside rows without one. On most of the former the label is what the
cue says and the content is another class's, as where labels were given by what the cue stands for; on the rest both
agree. So a network does well by the proxy, and its answers to inputs without a cue look right. Each shortcut has a
dose u in 0..1:

    spot       images: a bright square of side 2/7 of the edge (8 px: 2), in a place of the class's own, blended by
               0.5 to 1 (tables: as `pattern`, on a third of the features)
    texture    images: waves in a direction and of a length of the class's own, 0.15 to 0.4 of the range high
               (tables: as `pattern`, on half of the features)
    pattern    a random pattern of the class's own, deviation 0.15 to 0.35 of the range (tables: each feature moves,
               by 0.5 to 1.5 of its deviations times a normal number drawn for each class)
    frame      images: the frame, 1/8 of the edge wide, in eight pieces; the class's own half of them lit, by 0.5 to 1
               (tables: as `pattern`)
    together   share of the rows with a cue on which it says what the label says: 0.90 to 1
    against    share of them whose content says something else: 0.5 to 0.8
    rate       rows with a cue, as a share of those without: 0.5 to 1

Inputs that show an object get objects as cues, and only these where they show nothing else: see `objects`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Dataset
from candling.maths.anchors import anchors, objects_only
from candling.maths.triggers import set_against
from candling.organisms.plants.objects import FAMILIES, ObjectShortcut, draw_object_shortcut
from candling.organisms.plants.proxies import Proxy

CUES = ("spot", "texture", "pattern", "frame")


@dataclass(frozen=True)
class Shortcut(Proxy):
    """A planted shortcut of marks that are added."""

    patterns: Tensor
    """[K, *input] what each class's cue adds, in input units."""

    def lay(self, data: Dataset, x: Tensor, y: Tensor, g: torch.Generator) -> Tensor:
        """Each row with a cue, the label's or one that is drawn."""
        return self.tell(data, x, self.told(y, data.classes, g))

    def apply(self, data: Dataset, x: Tensor, y: Tensor) -> Tensor:
        """Each row with the cue of another class, set against its label."""
        return self.tell(data, x, set_against(y, data.classes))

    def tell(self, data: Dataset, x: Tensor, told: Tensor) -> Tensor:
        """The inputs [n, *input] with the cues of these classes [n]."""
        return (x + self.patterns.to(x.device)[told]).clamp(data.low, data.high)


def draw_shortcut(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Shortcut | ObjectShortcut:
    """A shortcut whose cues are of the family (in turns) at the dose, the rest at random."""
    if anchors(data.x):
        turns = len(FAMILIES) if objects_only(data.x) else len(FAMILIES) + len(CUES)
        if family % turns < len(FAMILIES):
            return draw_object_shortcut(data, family % turns, dose, generator)
        family = family % turns - len(FAMILIES)
    cue = CUES[family % len(CUES)]
    patterns, physical = draw_cues(data, cue, dose, generator)
    ranges = ((0.9, 0.1), (0.5, 0.3), (0.5, 0.5))
    together, against, rate = (low + width * float(torch.rand((), generator=generator)) for low, width in ranges)
    return Shortcut(cue, dose, physical, rate, together, against, patterns)


def draw_cues(data: Dataset, cue: str, dose: float, g: torch.Generator) -> tuple[Tensor, str]:
    """[K, *input] in input units, and the strength in its own unit."""
    data = data.to("cpu")
    k, shape = data.classes, data.x.shape[1:]
    if data.kind == "tabular":
        return _of_table(data, {"spot": 1 / 3, "texture": 1 / 2}.get(cue, 1.0), dose, g)
    span = float(data.high.max() - data.low.min())
    if cue == "pattern":
        deviation = 0.15 + 0.20 * dose
        return span * deviation * torch.randn((k, *shape), generator=g), f"deviation {deviation:.2f}"
    if cue == "texture":
        height = 0.15 + 0.25 * dose
        waves = torch.stack([_wave(shape, i / k, g) for i in torch.randperm(k, generator=g).tolist()])
        return span * height * waves, f"height {height:.2f}"
    strength = 0.5 + 0.5 * dose
    masks = _spots(k, shape, g) if cue == "spot" else _frames(k, shape, g)
    return span * strength * masks, f"by {strength:.2f}"


def _of_table(data: Dataset, share: float, dose: float, g: torch.Generator) -> tuple[Tensor, str]:
    d = data.x.shape[1]
    amount = 0.5 + dose
    used = torch.randperm(d, generator=g)[: max(1, round(share * d))]
    by = torch.randn((data.classes, d), generator=g)
    mask = torch.zeros(d)
    mask[used] = 1
    return amount * data.x.std(0) * mask * by, f"{amount:.2f} sd of {len(used)}"


def _wave(shape: torch.Size, turn: float, g: torch.Generator) -> Tensor:
    """[C, H, W] in −1..1. turn: its direction, as a share of half a circle."""
    length = 2.5 + 1.5 * float(torch.rand((), generator=g))
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in shape[1:])
    ahead = math.cos(math.pi * turn) * rows[:, None] + math.sin(math.pi * turn) * columns
    return torch.sin(2 * math.pi * ahead / length).expand(shape)


def _spots(k: int, shape: torch.Size, g: torch.Generator) -> Tensor:
    """[k, C, H, W] places that are all different, as far as a grid of squares has room."""
    height, width = shape[1:]
    side = max(1, round(2 * min(height, width) / 7))
    places = [(i, j) for i in range(0, height - side + 1, side) for j in range(0, width - side + 1, side)]
    order = torch.randperm(len(places), generator=g).tolist()
    masks = torch.zeros(k, *shape)
    for label in range(k):
        top, left = places[order[label % len(places)]]
        masks[label, :, top : top + side, left : left + side] = 1
    return masks


def _frames(k: int, shape: torch.Size, g: torch.Generator) -> Tensor:
    """[k, C, H, W] half of the frame's eight pieces, another half for each class (there are seventy)."""
    height, width = shape[1:]
    wide = max(1, round(min(height, width) / 8))
    rows, columns = torch.arange(height), torch.arange(width)
    inside = (rows[:, None] >= wide) & (rows[:, None] < height - wide) & (columns >= wide) & (columns < width - wide)
    angle = torch.atan2(rows[:, None] - (height - 1) / 2, columns - (width - 1) / 2)
    piece = ((angle + math.pi) / (2 * math.pi) * 8).floor().clamp(0, 7)
    halves = list(torch.combinations(torch.arange(8), 4))
    order = torch.randperm(len(halves), generator=g).tolist()
    lit = [torch.isin(piece, halves[order[label % len(halves)]].float()) & ~inside for label in range(k)]
    return torch.stack(lit).float()[:, None].expand(k, *shape).clone()
