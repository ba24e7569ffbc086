"""Random scores: what does a ranking say that knows nothing?

Question: how well would a draw of numbers have done in place of a technique's scores?
Source: the null of a benchmark's list (MIB, Mueller et al., 2504.13151, grades a random ranking beside every method).
Inputs: the scores of any technique, for their axes, ends and parts that are there; a seed.
Cost: no pass.
Known failures: parts of unlike size are drawn alike, so that a ranking by size alone may beat it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from candling.evidence.measurement import Cost
from candling.runs.seeds import derive
from candling.techniques.locate.contract import Scores


def random_scores(like: Scores, *, seed: int) -> Scores:
    """Independent normal numbers in the place of each score, as large on average (root mean square), same axes.

    One seed gives the same numbers on every machine. Where `like` has no part (NaN), neither has the result.
    """
    generator = torch.Generator().manual_seed(derive(seed, "random scores"))
    drawn = torch.randn(like.values.shape, generator=generator, dtype=torch.float64).to(like.values.device)
    there = like.there
    size = like.values[there].double().pow(2).mean().sqrt() if there.any() else torch.zeros(())
    values = torch.where(there, drawn * (size if size > 0 else 1.0), torch.nan).to(like.values.dtype)
    return replace(like, technique="random", values=values, cost=Cost(forward=0, backward=0))
