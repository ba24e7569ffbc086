"""What formulas over two whole numbers call: `program.py` brings the source of those that it uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]


def ones(n: Whole) -> Whole:
    """How many ones each number has in binary."""
    return sum((n >> place) & 1 for place in range(20))  # type: ignore[return-value]


def digits(n: Whole) -> Whole:
    """The sum of each number's decimal digits."""
    return sum(n // 10**place % 10 for place in range(6))  # type: ignore[return-value]


__all__: list[Any] = ["digits", "ones"]
