"""From a value to a place along an axis, in percent of its length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_HUGE = 1e300
_TICKS_APART = 9.0


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`. With `unit` > 0, what lies many units from `centre` is compressed."""

    low: float
    high: float
    centre: float = 0.0
    unit: float = 0.0

    @classmethod
    def fit(cls, values: Iterable[float], core: Iterable[float] = ()) -> Scale:
        """Room for all finite `values`; compressed where `core` would otherwise shrink to a point."""
        kept = [v for v in values if abs(v) < _HUGE] or [0.0]
        inner = [v for v in core if abs(v) < _HUGE]
        low, high = min(kept), max(kept)
        pad = 0.04 * (high - low) or max(0.5 * abs(high), 0.5)
        spread = max(inner) - min(inner) if inner else 0.0
        if spread > 0 and high - low > 12 * spread:
            return cls(low - spread / 4, high + pad, (max(inner) + min(inner)) / 2, spread)
        return cls(low - pad, high + pad)

    @property
    def compressed(self) -> bool:
        return self.unit > 0

    def at(self, value: float) -> float:
        """Percent of the length, 0 to 100; a larger value is never further left."""
        start, stop, here = self._bend(self.low), self._bend(self.high), self._bend(value)
        return within(100 * (here - start) / (stop - start))

    def ticks(self) -> list[float]:
        """Round values to print under the axis, far enough apart to read."""
        if not self.compressed:
            return _even_steps(self.low, self.high)
        kept: list[float] = []
        for value in sorted(_round_values(max(abs(self.low), abs(self.high))), key=abs):
            apart = all(abs(self.at(value) - self.at(other)) >= _TICKS_APART for other in kept)
            if self.low <= value <= self.high and apart:
                kept.append(value)
        return sorted(kept)

    def _bend(self, value: float) -> float:
        return math.asinh((value - self.centre) / self.unit) if self.compressed else value


def within(percent: float) -> float:
    """`percent`, held between 0 and 100."""
    return min(100.0, max(0.0, percent))


def _even_steps(low: float, high: float) -> list[float]:
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [0.0 if k == 0 else float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _round_values(most: float) -> list[float]:
    top = math.ceil(math.log10(most)) if most > 0 else 0
    sizes = [m * 10.0**e for e in range(top - 6, top + 1) for m in (1, 2, 5)]
    return [0.0, *sizes, *(-v for v in sizes)]
