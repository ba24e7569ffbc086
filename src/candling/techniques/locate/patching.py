"""Activation patching: what does each part of a decoder do when it alone takes its value in the other run?

Question: which layers, positions, heads or neurons carry what tells the clean prompt from the corrupt one?
Source: activation patching (Heimersheim and Nanda, 2404.15255; Zhang and Nanda, 2309.16042): m(patched) -
    m(unpatched), the change of the metric; its share of m(other) - m(unpatched) is `Scores.share`.
Inputs: a decoder taken apart, or a `Decoder` for the residual stream alone; pairs of prompts int64 [n, L]; a metric
    on the logits at each pair's last position [n, V] → [n]. Scores in units of the metric, averaged over pairs.
Cost: two forward passes a pair, and for each patch the blocks above and the positions to its right: about a quarter
    of a forward pass. `Scores.cost` counts what was run, in whole passes, and a reference set's passes not.
Known failures: noising misses parts that stand in for each other (OR), denoising parts that need each other (AND);
    probabilities saturate, logit differences do not; zero and the mean may be values that no prompt gives; a metric
    other than `LogitDifference` is called once for each patch and unembeds every token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from candling.access.anatomy import Anatomy
from candling.access.pairs import Pairs
from candling.access.parts import Part, resid_pre
from candling.access.pretrained import Decoder
from candling.access.sweep import Measure, Swept, sweep
from candling.access.sweep_plain import last_logits, streams_of_both, sweep_plain
from candling.access.trace import Source, both, resample
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, LogitDifference, Metric, Scores

Run = Callable[[Tensor, Tensor, Tensor | None, Measure], tuple[Swept, Tensor]]
"""The patched prompt int64 [L], the other, tokens or None, the metric [B, a] → [B, 1] → the sweep of the metric, and
the other run's metric [1, 1]"""


def patch(
    network: Anatomy | Decoder,
    pairs: Pairs,
    *,
    metric: Metric | None = None,
    part: Part = resid_pre,
    by_position: bool = True,
    source: Source = resample,
    denoising: bool = False,
    layers: Sequence[int] | None = None,
) -> Scores:
    """Scores [layers], and by units where the part has several, and by positions unless all are patched at once.

    metric: the answer's logit less the wrong one's unless given. source: what is put in, `resample`, `zero` or
    `mean(reference)`. denoising: clean values into the corrupt run, else corrupt ones into the clean run.
    Positions behind a prompt's end count as 0. Raises InputError where a part is not in the network, and where
    anything but the residual stream of the other run is asked of a `Decoder` not taken apart.
    """
    if not len(pairs):
        raise bad_input("pairs", "there is none; give at least one pair of prompts")
    run = _run(network, part, by_position=by_position, source=source, layers=layers)
    metric = LogitDifference(pairs.answer, pairs.wrong) if metric is None else metric
    patched, other = (pairs.corrupt, pairs.clean) if denoising else (pairs.clean, pairs.corrupt)
    dtype = torch.promote_types(torch.float32, network.embedding.dtype)
    total, ends, passes = torch.zeros((), dtype=dtype), torch.zeros(2, dtype=torch.float64), 0.0
    for row in range(len(pairs)):
        end = int(pairs.last[row]) + 1
        tokens = torch.stack([metric.answer[row], metric.wrong[row]]) if isinstance(metric, LogitDifference) else None
        measure = partial(_measure, metric, row=row, count=len(pairs))
        swept, theirs = run(patched[row, :end], other[row, :end], tokens, measure)
        change = (swept.logits - swept.own)[..., 0].to(dtype)
        total = total + (pad(change, (0, pairs.length - end)) if by_position else change)
        ends += torch.tensor([float(swept.own), float(theirs)])
        passes += 2 + swept.passes
    axes = _axes(network, part, range(pairs.length) if by_position else None, layers)
    own, others = (ends / len(pairs)).tolist()
    return Scores(
        technique="activation patching",
        values=(total / len(pairs)).reshape([len(axis.labels) for axis in axes]),
        axes=axes,
        clean=others if denoising else own,
        corrupt=own if denoising else others,
        cost=Cost(forward=math.ceil(passes), backward=0),
        denoising=denoising,
    )


def _run(
    network: Anatomy | Decoder, part: Part, *, by_position: bool, source: Source, layers: Sequence[int] | None
) -> Run:
    depth = _depth(network)
    wrong = [layer for layer in layers or () if not 0 <= layer < depth]
    if wrong or (layers is not None and (not layers or len(set(layers)) < len(layers))):
        raise bad_input("layers", f"{list(layers or ())} are not different layers from 0 to {depth - 1}")

    def taken_apart(own: Tensor, other: Tensor, tokens: Tensor | None, measure: Measure) -> tuple[Swept, Tensor]:
        assert isinstance(network, Anatomy)
        ours, theirs = both(network, own, other)
        result = sweep(
            network,
            ours,
            given=source(network, theirs),
            part=part,
            by_position=by_position,
            layers=layers,
            tokens=tokens,
            measure=measure,
        )
        return _chosen(result, layers), measure(network.unembed(theirs.pre[-1][-1:], tokens).detach())

    def whole(own: Tensor, other: Tensor, tokens: Tensor | None, measure: Measure) -> tuple[Swept, Tensor]:
        assert isinstance(network, Decoder)
        ours, theirs = streams_of_both(network, own, other)
        result = sweep_plain(network, ours, given=theirs.read, layers=layers, tokens=tokens, measure=measure)
        return _chosen(result, layers), measure(last_logits(network, theirs, tokens)[None])

    if isinstance(network, Anatomy):
        return taken_apart
    if part is not resid_pre or not by_position or source is not resample:
        what = "a Decoder as a whole knows resid_pre by position, resampled; dissect it for other parts and sources"
        raise bad_input("part", what)
    return whole


def _depth(network: Anatomy | Decoder) -> int:
    if isinstance(network, Anatomy):
        return network.depth
    return len(list(network.get_submodule(network.family.blocks).children()))


def _chosen(swept: Swept, layers: Sequence[int] | None) -> Swept:
    return swept if layers is None else replace(swept, logits=swept.logits[list(layers)])


def _measure(metric: Metric, logits: Tensor, *, row: int, count: int) -> Tensor:
    """Logits of one pair under patches [B, a or V] → the metric [B, 1].

    A metric sees the logits of all pairs and may know each by its place, so it gets as many rows alike.
    """
    if isinstance(metric, LogitDifference):
        return logits[:, :1] - logits[:, 1:]
    return torch.stack([metric(own.expand(count, -1))[row] for own in logits])[:, None]


def _axes(
    network: Anatomy | Decoder, part: Part, positions: range | None, layers: Sequence[int] | None
) -> tuple[Axis, ...]:
    chosen = range(_depth(network)) if layers is None else layers
    axes = [Axis("layer", tuple(map(str, chosen)))]
    if part.unit and isinstance(network, Anatomy):
        labels = [part.units(network, layer) for layer in range(network.depth)]
        widest = max(labels, key=len)
        alike = all(names in ([], widest) for names in labels)
        axes.append(Axis(part.unit, tuple(widest if alike else map(str, range(len(widest))))))
    if positions is not None:
        axes.append(Axis("position", tuple(map(str, positions))))
    return tuple(axes)
