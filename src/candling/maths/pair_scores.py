"""What formulas over two whole numbers call: `program.py` brings the source of those that it uses."""

from __future__ import annotations

from typing import Any

Whole = Any
"""An int64 array; numpy's own types are lost in sums over places."""


def ones(n: Whole) -> Whole:
    """How many ones each number has in binary."""
    return sum((n >> place) & 1 for place in range(20))


def digits(n: Whole) -> Whole:
    """The sum of each number's decimal digits."""
    return sum(n // 10**place % 10 for place in range(6))


def divides(d: Whole, n: Whole) -> Whole:
    """1 where d divides n; 0 divides 0 alone."""
    return ((d == 0) & (n == 0) | (d > 0) & (n % (d + (d == 0)) == 0)) * 1
