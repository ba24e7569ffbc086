"""Path patching: what one part hands to another, swapped alone.

Question: what does the metric do when one receiver reads from one sender what that sender wrote in the other run?
Source: Goldowsky-Dill et al. (2304.05969, section 3): all paths through one edge, or the single path sender →
    receiver → logits; query, key and value inputs of a head apart, as in Wang et al. (2211.00593, appendix B).
Inputs: a decoder taken apart; n pairs of prompts [n, L]; a metric, logits at the prompts' ends [n, V] → [n]. Scores
    [senders, receivers] in units of the metric, NaN where there is no edge.
Cost: 2n forward passes and n for each edge, of which only what the edge reaches is computed.
Known failures: a norm is recomputed on the receiver's mixed input, not frozen, so the effects of a receiver's edges
    need not add up; edges that stand in for each other (OR) score nothing by noising; a sender's value is that of
    the other run as a whole, whatever in that run brought it about.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edge_trials import EdgeTrials
from candling.access.pairs import Pairs
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, LogitDifference, Metric, Scores

Readout = Callable[[Tensor], list[float]]
"""Residual stream at the prompts' ends [b, n, d] → the metric of each of b runs, averaged over pairs"""


def readout(anatomy: Anatomy, metric: Metric) -> Readout:
    """Unembeds and measures; of a `LogitDifference` only the rows of its tokens are unembedded."""
    tokens, own = None, metric
    if isinstance(metric, LogitDifference):
        both = torch.cat([metric.answer, metric.wrong])
        tokens, places = both.unique(return_inverse=True)
        own = LogitDifference(*places.chunk(2))

    def read(ends: Tensor) -> list[float]:
        return [float(own(anatomy.unembed(each, tokens)).double().mean()) for each in ends]

    return read


def patch_paths(
    anatomy: Anatomy,
    pairs: Pairs,
    *,
    metric: Metric,
    direct: bool = False,
    denoising: bool = False,
    source: Tensor | None = None,
) -> Scores:
    """The exact effect of every edge alone: [senders, receivers].

    direct: the path sender → receiver → logits alone, every other node frozen at its value in the run that is
    patched; else everything downstream of the receiver is recomputed, which is all paths through the edge.
    source: what patched edges carry in place of the other run's values, as in `EdgeRun`; `corrupt` (of denoising:
    `clean`) is the metric with every edge patched all the same. What has no effect is exactly 0.
    """
    trials = EdgeTrials(anatomy, pairs, denoising=denoising, source=source, direct=direct)
    graph, read = trials.graph, readout(anatomy, metric)
    values = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    values[graph.edges] = 0
    idle = [trials.idle(sender) for sender in range(len(graph.senders))]
    passes = 0
    for receiver in range(len(graph.receivers)):
        senders = [s for s in torch.nonzero(graph.edges[:, receiver]).flatten().tolist() if not idle[s]]
        if not senders:
            continue
        # Nothing cut, but computed in the same way, to the shape: what has no effect differs by no rounding.
        (base,) = read(trials.cut(receiver, [[]]).ends)
        for sender in senders:
            (value,) = read(trials.cut(receiver, [[sender]]).ends)
            values[sender, receiver] = value - base
        passes += 1 + len(senders)
    ends = torch.stack([trials.ends, trials.all_cut])
    first, second = read(ends)
    return Scores(
        technique="direct path patching" if direct else "path patching",
        values=values,
        axes=(
            Axis("sender", tuple(map(str, graph.senders))),
            Axis("receiver", tuple(map(str, graph.receivers))),
        ),
        clean=second if denoising else first,
        corrupt=first if denoising else second,
        cost=Cost(forward=len(pairs) * (2 + passes), backward=0),
        denoising=denoising,
    )
