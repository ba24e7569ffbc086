"""How well a network's states tell fake inputs from real ones, beside what needs no such network."""

from __future__ import annotations

from candling.evidence.tampering import TamperingFound
from candling.report import charts, numerals
from candling.report.view import Bar

_SAID = (
    ("evidence", "The evidence probe", "subject"),
    ("supervised", "A probe that was taught which are fake: the bound", "positive"),
    ("mahalanobis", "Distance from trusted inputs", "negative"),
    ("confidence", "The outputs alone", "negative"),
    ("bare", "The evidence probe of the bare input", "negative"),
    ("untrained", "The evidence probe of an untrained network", "negative"),
    ("shuffled", "The evidence probe, taught shuffled labels", "negative"),
)


def show(found: TamperingFound) -> list[Bar]:
    """A bar for each that could be measured; none where the evidence probe could not."""
    if found.evidence is None:
        return []
    bars = []
    for name, label, kind in _SAID:
        value = getattr(found, name)
        if value is not None:
            shown = numerals.number(value)
            bars.append(Bar(label, "", shown, "", charts.bar(value, kind, f"{label}: {shown}")))
    return bars
