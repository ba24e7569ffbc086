"""Which techniques an explanation uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from candling.access.anatomy import Anatomy
from candling.access.pairs import Pairs
from candling.access.parts import heads, resid_pre
from candling.techniques.locate.circuit import Attribution
from candling.techniques.locate.contract import Metric, Scores
from candling.techniques.locate.edge_attribution import edge_attribution_ig
from candling.techniques.locate.patching import patch

Patching = Callable[[Anatomy, Pairs], Scores]
"""The logit difference when one part alone takes its clean value in the corrupt run; all pairs of one length."""


@dataclass(frozen=True)
class Methods:
    residual: Patching
    """Layers × positions."""
    heads: Patching
    """Layers × heads, at all positions."""
    attribution: Attribution
    """Senders × receivers."""


def attributed(anatomy: Anatomy, pairs: Pairs, metric: Metric) -> Scores:
    """EAP-IG with five steps."""
    return edge_attribution_ig(anatomy, pairs, metric=metric)


METHODS = Methods(
    residual=partial(patch, part=resid_pre, denoising=True),
    heads=partial(patch, part=heads, by_position=False, denoising=True),
    attribution=attributed,
)
