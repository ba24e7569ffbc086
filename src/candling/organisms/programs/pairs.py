"""Pairs on a grid: rules on (a, b), both of 0..p-1 for a prime p.

Every pair of the grid is in exactly one part: 12 % test, 28 % (at most 2,500) unlabelled, the others training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

import torch
from torch import Tensor

from candling.organisms.programs import networks
from candling.organisms.programs.problem import (
    Inputs,
    Kind,
    Problem,
    Recipe,
    Rule,
    between,
    integer,
    limits,
    member,
    one_of,
    posed,
    some_of,
    spoken,
    table_of,
    uniform,
    within,
)
from candling.runs.seeds import derive

PRIMES = ((53,), (59,), (61,), (67,))
_LARGE = ((173,), (179,), (181,))
_TRAINING, _TEST, _MOST_UNLABELLED = 0.6, 0.12, 2500


def grid(p: int) -> Tensor:
    """int64 [p², 2]: every pair, the second number running fastest."""
    return torch.cartesian_prod(torch.arange(p), torch.arange(p))


def problem(name: str, kind: Kind, seed: int) -> Problem:
    g = torch.Generator().manual_seed(derive(seed, name, "pairs"))
    (p,) = one_of(kind.sizes or PRIMES, g)
    pairs = grid(p)[torch.randperm(p * p, generator=g)]
    test = round(_TEST * p * p)
    unlabelled = min(p * p - round(_TRAINING * p * p) - test, _MOST_UNLABELLED)
    first, second, third = map(Inputs, pairs.split([p * p - test - unlabelled, test, unlabelled]))
    parts = first, second, third
    return posed("pairs", name, seed, parts, kind, numbers=p)


def _numbers(inputs: Inputs) -> tuple[Tensor, Tensor, int]:
    """a, b, p of a whole grid, from which rules are drawn."""
    a, b = inputs.x.unbind(1)
    return a, b, int(inputs.x.max()) + 1


def residue_cell(inputs: Inputs, *, table: Tensor) -> Tensor:
    """table[a mod m, b mod n], for a table int64 [m, n]."""
    a, b = inputs.x.unbind(1)
    return table[a % table.shape[0], b % table.shape[1]]


def residue_table(_: Inputs, g: torch.Generator) -> Rule:
    m, n = integer(2, 4, g), integer(3, 4, g)
    table = table_of((m, n), g)
    rows = " / ".join("".join(map(str, row)) for row in table.tolist())
    return Rule(f"a mod {m} and b mod {n} in the table {rows}", partial(residue_cell, table=table))


def residue_of_sum(inputs: Inputs, *, u: int, v: int, m: int, chosen: tuple[int, ...]) -> Tensor:
    """1 where (ua + vb) mod m is among those chosen."""
    a, b = inputs.x.unbind(1)
    return member((u * a + v * b) % m, chosen)


def residue_sum(_: Inputs, g: torch.Generator) -> Rule:
    m = integer(4, 6, g)
    u, v = integer(1, m - 1, g), integer(1, m - 1, g)
    chosen = some_of(m, m // 2, g)
    says = f"({u}a + {v}b) mod {m} is one of {', '.join(map(str, chosen))}"
    return Rule(says, partial(residue_of_sum, u=u, v=v, m=m, chosen=chosen))


def arc(inputs: Inputs, *, u: int, v: int, p: int, start: int, length: int) -> Tensor:
    """1 where (ua + vb) mod p is one of `length` numbers from `start` on, around the circle."""
    a, b = inputs.x.unbind(1)
    return ((u * a + v * b - start) % p < length).long()


def circular_band(inputs: Inputs, g: torch.Generator) -> Rule:
    _, _, p = _numbers(inputs)
    u, v, start = integer(1, p - 1, g), integer(1, p - 1, g), integer(0, p - 1, g)
    length = round(p * uniform(0.42, 0.58, g))
    says = f"({u}a + {v}b) mod {p} is one of the {length} numbers from {start} on, around the circle"
    return Rule(says, partial(arc, u=u, v=v, p=p, start=start, length=length))


def block_cell(inputs: Inputs, *, side: int, table: Tensor) -> Tensor:
    """table[a // side, b // side]"""
    a, b = (inputs.x // side).unbind(1)
    return table[a, b]


def blocks(inputs: Inputs, g: torch.Generator) -> Rule:
    _, _, p = _numbers(inputs)
    side = integer(12, 18, g)
    count = -(-p // side)
    table = table_of((count, count), g)
    rows = " / ".join("".join(map(str, row)) for row in table.tolist())
    return Rule(f"the block of {side} × {side} in the table {rows}", partial(block_cell, side=side, table=table))


LOGIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}


def divides(inputs: Inputs, *, m: int, how: str, n: int) -> Tensor:
    """Whether m divides a, and whether n divides b, joined by and, or, xor."""
    a, b = inputs.x.unbind(1)
    return LOGIC[how](a % m == 0, b % n == 0).long()


def divisibility(_: Inputs, g: torch.Generator) -> Rule:
    m, n, how = integer(2, 5, g), integer(2, 5, g), one_of(("or", "xor"), g)
    return Rule(f"{m} divides a {how} {n} divides b", partial(divides, m=m, how=how, n=n))


def linear(inputs: Inputs, *, u: int, v: int, low: float, high: float) -> Tensor:
    """1 where low ≤ ua + vb ≤ high."""
    a, b = inputs.x.unbind(1)
    return within(u * a + v * b, low, high)


def linear_band(inputs: Inputs, g: torch.Generator) -> Rule:
    a, b, _ = _numbers(inputs)
    u, v = integer(1, 3, g), one_of((-3, -2, -1, 1, 2, 3), g)
    low, high = limits(u * a + v * b, "band", g)
    return Rule(f"{u}a {v:+d}b is {spoken(low, high)}", partial(linear, u=u, v=v, low=low, high=high))


def apart(inputs: Inputs, *, low: float, high: float) -> Tensor:
    """1 where low ≤ |a - b| ≤ high."""
    a, b = inputs.x.unbind(1)
    return within((a - b).abs(), low, high)


def difference_band(inputs: Inputs, g: torch.Generator) -> Rule:
    a, b, _ = _numbers(inputs)
    low, high = limits((a - b).abs(), "band", g)
    return Rule(f"|a - b| is {spoken(low, high)}", partial(apart, low=low, high=high))


def quadratic(inputs: Inputs, *, u: int, v: int, w: int, low: float, high: float) -> Tensor:
    """1 where low ≤ ua² + vab + wb² ≤ high."""
    a, b = inputs.x.unbind(1)
    return within(u * a * a + v * a * b + w * b * b, low, high)


def quadratic_form(inputs: Inputs, g: torch.Generator) -> Rule:
    a, b, _ = _numbers(inputs)
    u, v, w = (integer(-2, 2, g) for _ in "uvw")
    if not u and not w:
        v = 1
    form = one_of(("above", "band"), g)
    low, high = limits(u * a * a + v * a * b + w * b * b, form, g)
    says = f"{u}a² {v:+d}ab {w:+d}b² is {spoken(low, high)}"
    return Rule(says, partial(quadratic, u=u, v=v, w=w, low=low, high=high))


def product_least(inputs: Inputs, g: torch.Generator) -> Rule:
    a, b, _ = _numbers(inputs)
    low = between(a * b, uniform(0.42, 0.58, g))
    rule = partial(quadratic, u=0, v=1, w=0, low=low, high=inf)
    return Rule(f"ab is {spoken(low, inf)}", rule)


def residue_less(inputs: Inputs, *, m: int, n: int) -> Tensor:
    """1 where a mod m < b mod n."""
    a, b = inputs.x.unbind(1)
    return (a % m < b % n).long()


def residues_compared(_: Inputs, g: torch.Generator) -> Rule:
    m, n = integer(3, 7, g), integer(3, 7, g)
    return Rule(f"a mod {m} is less than b mod {n}", partial(residue_less, m=m, n=n))


TABLE = partial(networks.PairTable, width=96)
NARROW_TABLE = partial(networks.PairTable, width=32)
NUMBERS = partial(networks.PairNumbers, width=64)
_DECAYED = Recipe(steps=1500, batch=256, rate=1e-2, decay=0.3)
_PLANE = Recipe(steps=1500, batch=256, rate=1e-2, decay=1e-3)

KINDS: dict[str, Kind] = {
    "residue table": Kind(residue_table, TABLE, _DECAYED),
    "residue of a sum": Kind(residue_sum, TABLE, _DECAYED),
    "circular band": Kind(circular_band, NARROW_TABLE, Recipe(steps=1500, batch=512, rate=1e-2, decay=1.0), _LARGE),
    "blocks": Kind(blocks, TABLE, _DECAYED),
    "divisibility": Kind(divisibility, TABLE, _DECAYED),
    "linear band": Kind(linear_band, NUMBERS, _PLANE),
    "difference band": Kind(difference_band, NUMBERS, _PLANE),
    "quadratic form": Kind(quadratic_form, NUMBERS, _PLANE),
    "product": Kind(product_least, NUMBERS, _PLANE),
    "residues compared": Kind(residues_compared, TABLE, _DECAYED),
}
