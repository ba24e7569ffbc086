"""The question of this folder: does a hypothesis about a network hold?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from candling.evidence.measurement import Cost


@dataclass(frozen=True)
class Comparison:
    """How a network treats one group of inputs, beside trusted ones that it answers alike."""

    figures: Mapping[str, float]
    """By name: what the group gives less what as many trusted inputs give; 0 = no different."""
    reuse: float
    """Share of swaps of what matters for trusted inputs that the group's answers follow, of those trusted ones do."""
    cost: Cost
