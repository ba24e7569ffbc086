"""Images: rules on real digits of 8×8 (scikit-learn's bundled set), shifted, dimmed and grainy.

There are only 1,797 digits, too few to learn an exact rule from. So every digit comes in several variants: shifted by
up to one pixel, dimmed to 0.5 to 1 of its ink, with some grain, in steps of 1/16. The label is the rule's answer for
that very variant. Parts are disjoint by digit: no variant of a training digit is in another part. An exemplar
is one of the unlabelled inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import accumulate, pairwise
from math import inf

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import pad

from candling.organisms.programs import networks
from candling.organisms.programs.problem import (
    Inputs,
    Kind,
    Problem,
    Recipe,
    Rule,
    between,
    distance,
    integer,
    limits,
    member,
    one_of,
    posed,
    some_of,
    spoken,
    uniform,
    within,
)
from candling.runs.seeds import derive

EDGE = 8
_GRAIN = 0.04
"""Standard deviation of the noise that every pixel has."""
_PARTS = (1100, 30), (250, 6), (447, 7)
"""Training, test, unlabelled: digits, and how many variants of each."""
_UNLABELLED = 447 * 7


@cache
def digits() -> Inputs:
    """The bundled set as it is: float32 [1797, 1, 8, 8] in 0..1."""
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    return Inputs(x, torch.tensor(bunch.target, dtype=torch.long))


def variants(inputs: Inputs, times: int, g: torch.Generator) -> Inputs:
    """Each image `times` times, shifted by -1, 0 or 1 along both axes, dimmed and grainy, in 1/16."""
    assert inputs.digit is not None
    x = inputs.x.repeat_interleave(times, 0)
    padded = pad(x, (1, 1, 1, 1))
    top, left = (torch.randint(0, 3, (len(x), 1, 1), generator=g) for _ in "hw")
    rows, columns = torch.arange(EDGE)[None, :, None] + top, torch.arange(EDGE)[None, None, :] + left
    moved = padded[torch.arange(len(x))[:, None, None], 0, rows, columns][:, None]
    ink = 0.5 + 0.5 * torch.rand((len(x), 1, 1, 1), generator=g)
    grain = _GRAIN * torch.randn(x.shape, generator=g)
    changed = (16 * (ink * moved + grain)).round().clamp(0, 16) / 16
    return Inputs(changed, inputs.digit.repeat_interleave(times))


def split(seed: int) -> tuple[Tensor, ...]:
    """Which of the bundled digits are for training, test and the solver: int64 row numbers, disjoint."""
    g = torch.Generator().manual_seed(derive(seed, "images"))
    order = torch.randperm(len(digits()), generator=g)
    starts = [0, *accumulate(count for count, _ in _PARTS)]
    return tuple(order[start:end] for start, end in pairwise(starts))


def problem(name: str, kind: Kind, seed: int) -> Problem:
    own = derive(seed, name)
    g = torch.Generator().manual_seed(derive(own, "variants"))
    first, second, third = (
        variants(digits().take(rows), times, g) for rows, (_, times) in zip(split(own), _PARTS, strict=True)
    )
    return posed("images", name, seed, (first, second, third), kind, edge=EDGE)


def _digit(inputs: Inputs) -> Tensor:
    assert inputs.digit is not None
    return inputs.digit


# How near an image [n, 1, H, W] is to an exemplar [1, H, W]: float64 [n]


def dot(x: Tensor, exemplar: Tensor) -> Tensor:
    """Σ x·e"""
    return (x.double() * exemplar.double()).flatten(1).sum(1)


def signed(x: Tensor, exemplar: Tensor) -> Tensor:
    """Σ x·(2e - 1): ink on the exemplar's strokes less ink beside them"""
    return (x.double() * (2 * exemplar.double() - 1)).flatten(1).sum(1)


def l1(x: Tensor, exemplar: Tensor) -> Tensor:
    """Σ |x - e|"""
    return (x.double() - exemplar.double()).abs().flatten(1).sum(1)


def l2(x: Tensor, exemplar: Tensor) -> Tensor:
    """√Σ (x - e)²"""
    return (x.double() - exemplar.double()).square().flatten(1).sum(1).sqrt()


def cosine(x: Tensor, exemplar: Tensor) -> Tensor:
    """Σ x·e / (|x| |e|)"""
    lengths = (x.double().square().flatten(1).sum(1) * exemplar.double().square().sum()).sqrt()
    return dot(x, exemplar) / lengths.clamp(min=1e-12)


def nearness(
    inputs: Inputs, *, score: Callable[[Tensor, Tensor], Tensor], exemplar: Tensor, low: float, high: float
) -> Tensor:
    """1 where low ≤ score ≤ high."""
    return within(score(inputs.x, exemplar), low, high)


def near(inputs: Inputs, g: torch.Generator, *, score: Callable[[Tensor, Tensor], Tensor], form: str) -> Rule:
    """form: `above`, `below` (one threshold) or `band` (two). The exemplar is one of the unlabelled inputs."""
    exemplar = inputs.x[len(inputs) - 1 - integer(0, _UNLABELLED - 1, g)]
    scores = score(inputs.x, exemplar)
    low, high = limits(scores, form, g)
    says = f"{score.__name__} ({score.__doc__}) with one of the unlabelled images is {spoken(low, high)}"
    rule = partial(nearness, score=score, exemplar=exemplar, low=low, high=high)
    return Rule(says, rule, margin=distance(scores, low, high))


# Regions (top, bottom, left, right), the last row and column not included


Box = tuple[int, int, int, int]


def ink(x: Tensor, box: Box) -> Tensor:
    """float64 [n]: the sum of a region."""
    top, bottom, left, right = box
    return x[:, :, top:bottom, left:right].double().flatten(1).sum(1)


def _box(g: torch.Generator) -> Box:
    """A region of 2 to 5 by 2 to 5 pixels that is not at the empty rim."""
    height, width = integer(2, 5, g), integer(2, 5, g)
    top, left = integer(0, EDGE - height, g), integer(1, EDGE - 1 - width, g)
    return top, top + height, left, left + width


def _named(box: Box) -> str:
    return f"rows {box[0]}-{box[1] - 1}, columns {box[2]}-{box[3] - 1}"


def region_sum(inputs: Inputs, *, box: Box, low: float, high: float) -> Tensor:
    """1 where low ≤ ink of the region ≤ high."""
    return within(ink(inputs.x, box), low, high)


def region(inputs: Inputs, g: torch.Generator, *, form: str) -> Rule:
    box = _box(g)
    low, high = limits(ink(inputs.x, box), form, g)
    says = f"the ink in {_named(box)} is {spoken(low, high)}"
    return Rule(says, partial(region_sum, box=box, low=low, high=high))


def region_comparison(inputs: Inputs, *, first: Box, second: Box) -> Tensor:
    """1 where the first region has more ink than the second."""
    return (ink(inputs.x, first) > ink(inputs.x, second)).long()


def comparison(_: Inputs, g: torch.Generator) -> Rule:
    first, second = _box(g), _box(g)
    says = f"there is more ink in {_named(first)} than in {_named(second)}"
    return Rule(says, partial(region_comparison, first=first, second=second))


LOGIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}


def region_logic(
    inputs: Inputs, *, how: str, first: Box, first_least: float, second: Box, second_least: float
) -> Tensor:
    """Two regions, each with at least so much ink or not, joined by and, or, xor."""
    parts = ink(inputs.x, first) >= first_least, ink(inputs.x, second) >= second_least
    return LOGIC[how](*parts).long()


def logic(inputs: Inputs, g: torch.Generator, *, how: str) -> Rule:
    first, second = _box(g), _box(g)
    middle = {"and": 0.3, "or": 0.7, "xor": 0.5}[how]
    cuts = [between(ink(inputs.x, box), middle + uniform(-0.08, 0.08, g)) for box in (first, second)]
    says = f"{_named(first)} has at least {cuts[0]:.5g} of ink {how} {_named(second)} at least {cuts[1]:.5g}"
    rule = partial(region_logic, how=how, first=first, first_least=cuts[0], second=second, second_least=cuts[1])
    return Rule(says, rule)


MIRRORS: dict[str, Callable[[Tensor], Tensor]] = {
    "left and right": lambda x: x.flip(3),
    "top and bottom": lambda x: x.flip(2),
    "a half turn": lambda x: x.flip(2, 3),
    "the diagonal": lambda x: x.transpose(2, 3),
}


def asymmetry(x: Tensor, mirror: str) -> Tensor:
    """float64 [n]: Σ |x - its mirror image|."""
    return (x - MIRRORS[mirror](x)).double().abs().flatten(1).sum(1)


def unlike_mirror(inputs: Inputs, *, mirror: str, most: float) -> Tensor:
    """1 where the image differs from its mirror image by at most so much."""
    return within(asymmetry(inputs.x, mirror), -inf, most)


def symmetry(inputs: Inputs, g: torch.Generator) -> Rule:
    mirror = one_of(list(MIRRORS), g)
    scores = asymmetry(inputs.x, mirror)
    most = between(scores, uniform(0.42, 0.58, g))
    says = f"Σ |x - its image mirrored by {mirror}| is at most {most:.5g}"
    return Rule(says, partial(unlike_mirror, mirror=mirror, most=most), margin=distance(scores, most, inf))


def digit_in(inputs: Inputs, *, chosen: tuple[int, ...]) -> Tensor:
    """1 where the digit shown is one of those chosen."""
    return member(_digit(inputs), chosen)


def digit_set(_: Inputs, g: torch.Generator) -> Rule:
    chosen = some_of(10, 5, g)
    return Rule(f"the digit is one of {', '.join(map(str, chosen))}", partial(digit_in, chosen=chosen))


FLAT = partial(networks.Flat, width=128)
LEVELS = partial(networks.Levels, width=96)
SEEING = partial(networks.Convolutional, channels=8, width=48)
_USUAL = Recipe(steps=1200, batch=256, rate=5e-3, decay=0.1)
_ADDED = Recipe(steps=1000, batch=256, rate=5e-3, decay=1.0)
_LONG = Recipe(steps=1800, batch=256, rate=5e-3, decay=0.3)
_SEEN = Recipe(steps=800, batch=256, rate=5e-3, decay=0.05)

KINDS: dict[str, Kind] = {
    "dot": Kind(partial(near, score=dot, form="above"), FLAT, _USUAL),
    "dot band": Kind(partial(near, score=dot, form="band"), FLAT, _USUAL),
    "signed": Kind(partial(near, score=signed, form="above"), FLAT, _USUAL),
    "l1": Kind(partial(near, score=l1, form="below"), LEVELS, _ADDED),
    "l2": Kind(partial(near, score=l2, form="below"), LEVELS, _ADDED),
    "l2 band": Kind(partial(near, score=l2, form="band"), LEVELS, _ADDED),
    "cosine": Kind(partial(near, score=cosine, form="above"), FLAT, _LONG, clear=0.08),
    "region": Kind(partial(region, form="above"), FLAT, _USUAL),
    "region band": Kind(partial(region, form="band"), FLAT, _USUAL),
    "two regions": Kind(comparison, SEEING, _SEEN),
    "regions and": Kind(partial(logic, how="and"), FLAT, _USUAL),
    "regions xor": Kind(partial(logic, how="xor"), FLAT, _USUAL),
    "symmetry": Kind(symmetry, FLAT, _LONG, clear=0.08),
    "digits": Kind(digit_set, FLAT, _LONG),
}
