"""Pairs of whole numbers: residues, circular bands, blocks, divisibility, lines, distances, small quadratics.

Question: which program of two whole numbers gives these answers?
Source: exhaustion of a declared grammar; the best band of each score by an exact pass (`maths.bands`), tables, pairs
    of parts by and, or and xor; chosen by description length (Rissanen 1978).
Inputs: pairs [n, 2] of numbers from 0, the answers [n] of a network, how many classes there are.
Cost: no pass; some tens of thousands of features of 1,500 inputs each.
Known failures: rules outside the grammar; moduli that are neither a side of the grid nor at most 16, unless both
    factors are small; rules of three parts.
"""

from __future__ import annotations

from itertools import product
from math import gcd

from candling.techniques.propose.choosing import choose
from candling.techniques.propose.contract import Grammar, Programs, Seen

_SMALL = (-3, -2, -1, 0, 1, 2, 3)
_ALL_FACTORS_UP_TO = 257
_MODULI = range(2, 17)


def propose_pairs(seen: Seen) -> Programs:
    """Needs no more than the answers."""
    sides = sorted({int(seen.x[:, 0].max()) + 1, int(seen.x[:, 1].max()) + 1})
    return choose(seen, grammar(sides))


def grammar(sides: list[int]) -> Grammar:
    """What is tried for grids of these sides."""
    largest = max(sides)
    directions = [uv for uv in product(_SMALL, repeat=2) if _first_positive(uv) and gcd(*uv) == 1]
    moduli = [m for m in _MODULI if m <= largest]
    wide = [side for side in sides if side <= _ALL_FACTORS_UP_TO and side not in moduli]
    whole = [(u, v, m) for m in [*wide, *moduli] for u in range(m // 2 + 1) for v in range(m) if u or v]
    others = [(u, v, m) for m in range(17, largest + 1) if m not in wide for u, v in directions]
    places = sorted({round(largest * share / 12) for share in range(13)} | {(largest - 1) // 2, largest - 1})
    steps = list(range(2, largest // 2 + 1))
    few = [m for m in range(2, 13) if m <= largest]
    grid = sorted({*sides, *moduli})
    return {
        "sum mod": whole + others,
        "sum": directions,
        "distance": [()],
        "circular distance": [(side,) for side in sides],
        "smaller": [()],
        "larger": [()],
        "product": list(product(range(2), repeat=2)),
        "product mod": [(m,) for m in grid],
        "quadratic": [uvw for uvw in product((-2, -1, 0, 1, 2), repeat=3) if _first_positive(uvw) and _square(uvw)],
        "quadratic mod": [(*uvw, m) for m in grid for uvw in product(range(-1, 3), repeat=3) if _square(uvw)],
        "square and line": [(u, v, m) for m in grid for u in (1, 2) for v in (-2, -1, 1, 2)],
        "line and square": [(u, v, m) for m in grid for u in (1, 2) for v in (-2, -1, 1, 2)],
        "circle": list(product(places, repeat=2)),
        "diamond": list(product(places, repeat=2)),
        "square": list(product(places, repeat=2)),
        "blocks": [(s, t, m) for s in steps[:24] for t in (s, *steps[:6]) for m in (2, 3, 4)],
        "cells": [(s, -(-largest // s)) for s in steps if largest <= 8 * s],
        "stripes of a": [(s, m) for s in steps for m in (2, 3, 4)],
        "stripes of b": [(s, m) for s in steps for m in (2, 3, 4)],
        "residues": list(product(range(1, 9), repeat=2)),
        "divides both": list(product(few, repeat=2)),
        "divides sum": list(product(few, repeat=2)),
        "common divisor": list(product(range(2), repeat=2)),
        "divides": list(product(range(2), repeat=2)),
        "bits xor": [()],
        "bits and": [()],
        "bits or": [()],
        "ones xor": [()],
        "ones and": [()],
        "ones": [(1, 1), (1, -1), (1, 0), (0, 1)],
        "digits": [(1, 1), (1, -1), (1, 0), (0, 1)],
        "sum of remainders": list(product(few, repeat=2)),
        "difference of remainders": list(product(few, repeat=2)),
    }


def _first_positive(numbers: tuple[int, ...]) -> bool:
    """One of each two that differ in sign alone, and not all are 0."""
    return next((n for n in numbers if n), 0) > 0


def _square(uvw: tuple[int, ...]) -> bool:
    """Of the second degree."""
    return any(uvw)
