"""Numbers as a reader expects them: percentages that never round up to certainty, few digits, intervals."""

from __future__ import annotations

import math

from candling.evidence.measurement import Rate


def digits_for(n: int) -> int:
    """Decimals of a percentage that rests on `n` examples: a tenth is noise below two hundred."""
    return 1 if n >= 200 else 0


def percent(value: float, digits: int = 1) -> str:
    """`0.996` as `99.6 %`; only an exact 1 is `100 %` and only an exact 0 is `0 %`, a hair below it `≈0 %`."""
    if not math.isfinite(value):
        return "undefined"
    step = 10.0**-digits
    shown = round(100 * value, digits)
    if shown >= 100 and value < 1:
        return f">{100 - step:.{digits}f} %"
    if shown <= 0 < value:
        return f"<{step:.{digits}f} %"
    if shown == 0 > value:
        return "≈0 %"
    return f"{_plain(shown, digits)} %".replace("-", "−")


def span(low: float, high: float, digits: int = 0) -> str:
    """`[67–99]`, in percent. An end short of 1 is never shown as 100."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "[undefined]"
    return f"[{_end(low, digits)}–{_end(high, digits)}]"


def count(rate: Rate) -> int:
    """The successes behind a proportion."""
    return round(rate.value * rate.n) if math.isfinite(rate.value) else 0


def of(rate: Rate) -> str:
    """`17 of 19`."""
    return f"{count(rate)} of {rate.n}"


def number(value: float) -> str:
    """Three significant digits, thousands grouped, a true minus sign."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e9):
        text = f"{value:.2e}"
    elif size >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


def dose(value: float) -> str:
    """A position in a range of doses: two significant digits."""
    return f"{value:.2g}" if math.isfinite(value) else "undefined"


def roughly(value: float) -> str:
    """A size for a sentence: one decimal below ten, none above."""
    if not math.isfinite(value) or abs(value) < 1:
        return number(value)
    return f"{value:.1f}".removesuffix(".0") if abs(value) < 9.95 else f"{value:,.0f}"


def p(value: float) -> str:
    """A p-value with two significant digits."""
    return f"{value:.2g}" if math.isfinite(value) else "undefined"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _plain(shown: float, digits: int) -> str:
    """Whole at the two ends, else always with `digits` decimals, so that columns line up."""
    return f"{shown:.0f}" if shown in (0.0, 100.0) else f"{shown:.{digits}f}"


def _end(value: float, digits: int) -> str:
    step = 10.0**-digits
    shown = round(100 * value, digits)
    if value < 1:
        shown = min(shown, 100 - step)
    return _plain(shown, digits)
