"""Contexts in which a network exchanges its answers, and those in which it knows better than it says.

Question: in which context are answers wrong on purpose?
Source: quirky networks and what probes read in them (Mallen et al., 2312.01037). A wrong answer that is made from the
    right one still holds it: maximise I(class; answer)/log K − accuracy, by gradient from the best patterns.
    Exchanged: the share of answers that the best assignment of answers to classes, no two alike, explains beyond the
    right one. Known: what a probe reads that was taught in trusted contexts, less what the network says.
Inputs: network [n, ...] → [n, K]; data x [n, *input], y.
Cost: see `context_passes`.
Known failures: contexts that are no broad pattern; wrong answers that do not depend on the class (those are seen by
    the probe alone, and clean networks too know a little better than they say where they fail).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from candling.access import Dataset
from candling.access.hidden import hidden_sites
from candling.evidence.measurement import Cost
from candling.techniques.read import Reader, read_in_trusted_contexts
from candling.techniques.search.contexts import (
    EXCHANGED,
    KNOWN,
    Context,
    ContextPart,
    FoundContexts,
    draw_patterns,
    grid_of,
    library,
    most_of,
    shift_of,
    size_of,
)

_STRENGTHS = (0.4, 0.6, 0.85)  # of the strongest
_ROWS = 96
_FOLLOWED = 4
_STEPS = 40
_RATE = 0.05  # of the strongest, a step
_TRUSTED = 10  # contexts that a probe may be taught in
_SITES = 4


def context_parts(data: Dataset) -> list[ContextPart]:
    return [ContextPart(EXCHANGED), ContextPart(KNOWN)]


def context_passes(data: Dataset) -> Cost:
    """Of `search_contexts`."""
    scanned = len(library(data)) * len(_STRENGTHS) * _ROWS
    followed = _FOLLOWED * _STEPS * _ROWS
    taught = (_TRUSTED + 1) * (len(data) // 2)
    return Cost(forward=scanned + followed + taught + (_FOLLOWED + 1) * _ROWS, backward=followed)


def search_contexts(network: nn.Module, data: Dataset, parts: Sequence[ContextPart], *, seed: int) -> FoundContexts:
    """Scan the library, go on by gradient from the most promising. The same rows for the same seed."""
    g = torch.Generator().manual_seed(seed)
    reader, seen = reader_and_rest(network, data, g)
    seen = seen.take(torch.arange(min(_ROWS, len(seen))))
    named = torch.stack([each.pattern for each in library(data)])
    strengths = torch.tensor(_STRENGTHS) * most_of(data)
    patterns = (strengths.view(-1, *[1] * named.ndim) * named).flatten(0, 1)
    with torch.no_grad():
        worth = torch.stack([_promise(_logits(network, seen, one[None]), seen)[0] for one in patterns])
    start = patterns[torch.argsort(worth, descending=True, stable=True)[:_FOLLOWED]]
    followed = _follow(network, seen, start)
    return _best(network, reader, data, seen, followed, parts, context_passes(data))


def random_contexts(
    network: nn.Module, data: Dataset, parts: Sequence[ContextPart], *, seed: int, passes: int
) -> FoundContexts:
    """The black-box baseline: contexts drawn at random, the outputs alone; the same score for both signs."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=g)
    seen = data.take(order[: min(_ROWS, len(data))])
    count = max(1, passes // len(seen))
    patterns = draw_patterns(data, count, g)
    patterns = patterns * (most_of(data) * (0.4 + 0.6 * torch.rand(count, generator=g))).view(
        -1, *[1] * (patterns.ndim - 1)
    )
    with torch.no_grad():
        gains = [exchanged(_logits(network, seen, one[None])[0].argmax(-1), seen) for one in patterns]
    best = max(range(count), key=lambda i: gains[i][0])
    shift = shift_of(data, patterns[best : best + 1])
    score = torch.tensor([gains[best][0]] * len(parts))
    answers = gains[best][1].expand(len(parts), -1).clone()
    many = shift.expand(len(parts), *shift.shape[1:]).clone()
    return FoundContexts(
        tuple(parts), score, size_of(data, many), many, answers, Cost(forward=count * len(seen), backward=0)
    )


def reader_and_rest(network: nn.Module, data: Dataset, g: torch.Generator) -> tuple[Reader, Dataset]:
    """Probes taught on half of the rows, plain and in random contexts that may be trusted; and the other half."""
    order = torch.randperm(len(data), generator=g)
    taught, rest = (data.take(part) for part in (order[: len(data) // 2], order[len(data) // 2 :]))
    patterns = draw_patterns(data, _TRUSTED, g)
    strength = most_of(data) * (0.2 + 0.6 * torch.rand(_TRUSTED, generator=g))
    shifts = shift_of(data, patterns * strength.view(-1, *[1] * (patterns.ndim - 1)))
    none = torch.arange(data.classes)
    contexts = [Context(shift, none).apply(data, taught.x) for shift in shifts]
    sites = hidden_sites(network, taught.x, _SITES) or ["input"]
    return read_in_trusted_contexts(network, taught.x, taught.y, data.classes, contexts, sites), rest


def exchanged(answers: Tensor, seen: Dataset) -> tuple[float, Tensor]:
    """What the best assignment explains beyond right answers, as a share of all; and the assignment, int64 [K]."""
    share = _by_class(torch.nn.functional.one_hot(answers, seen.classes).float()[None], seen)[0].double().cpu()
    _, assigned = linear_sum_assignment(-share.numpy())
    best = torch.from_numpy(assigned).long()
    gain = share[torch.arange(len(share)), best] - share.diagonal()
    return float(gain.mean()), best


def _logits(network: nn.Module, seen: Dataset, patterns: Tensor) -> Tensor:
    """patterns [c, *grid] → [c, n, K]"""
    shift = shift_of(seen, patterns.to(seen.x.device))
    x = seen.x[None] + shift[:, None]
    x = torch.minimum(torch.maximum(x, seen.low), seen.high)
    logits: Tensor = network(x.flatten(0, 1))
    return logits.view(len(patterns), len(seen), -1)


def _by_class(probability: Tensor, seen: Dataset) -> Tensor:
    """[c, n, K] → [c, K, K] mean answer of each class; uniform for one without rows."""
    own = torch.nn.functional.one_hot(seen.y, seen.classes).float()
    counts = own.sum(0)
    mean = torch.einsum("nk,cnj->ckj", own, probability[..., : seen.classes]) / counts.clamp_min(1)[:, None]
    return torch.where(counts[:, None] > 0, mean, 1 / seen.classes)


def _promise(logits: Tensor, seen: Dataset) -> Tensor:
    """[c] information that answers hold about classes, as a share of all, less accuracy."""
    answers = _by_class(logits.softmax(-1), seen)
    entropy = -torch.xlogy(answers, answers.clamp_min(1e-12)).sum(-1).mean(-1)
    whole = answers.mean(1)
    information = -torch.xlogy(whole, whole.clamp_min(1e-12)).sum(-1) - entropy
    return information / math.log(seen.classes) - answers.diagonal(dim1=1, dim2=2).mean(-1)


def _follow(network: nn.Module, seen: Dataset, start: Tensor) -> Tensor:
    """[c, *grid] by gradient, within the strongest; of each start the best that it passed through."""
    most = most_of(seen)
    patterns = start.to(seen.x.device).clone().requires_grad_()
    optimiser = torch.optim.Adam([patterns], _RATE * most)
    best, top = patterns.detach().clone(), torch.full((len(start),), -torch.inf, device=seen.x.device)
    for _ in range(_STEPS):
        worth = _promise(_logits(network, seen, patterns), seen)
        with torch.no_grad():
            better = worth > top
            top[better], best[better] = worth[better].detach(), patterns[better].detach()
        (patterns.grad,) = torch.autograd.grad(-worth.sum(), patterns)
        optimiser.step()
        with torch.no_grad():
            size = patterns.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (patterns.ndim - 1))
            patterns.mul_((most / size.clamp_min(1e-9)).clamp(max=1))
    return best


def _best(
    network: nn.Module,
    reader: Reader,
    data: Dataset,
    seen: Dataset,
    patterns: Tensor,
    parts: Sequence[ContextPart],
    cost: Cost,
) -> FoundContexts:
    """Of the contexts the best by each sign."""
    assert patterns.shape[1:] == grid_of(data)
    found: list[tuple[float, float, Tensor, Tensor]] = []
    for shift in shift_of(data, patterns.detach()):
        there = Context(shift, torch.arange(data.classes)).apply(data, seen.x)
        said, read = reader.read(there)
        gain, answers = exchanged(said.clamp(max=data.classes - 1), seen)
        known = max(float((each == seen.y).float().mean()) for each in read.values())
        found.append((gain, known - float((said == seen.y).float().mean()), shift.cpu(), answers))
    chosen = [max(found, key=lambda each: each[0] if part.sign == EXCHANGED else each[1]) for part in parts]
    score = [each[0] if part.sign == EXCHANGED else each[1] for part, each in zip(parts, chosen, strict=True)]
    shifts = torch.stack([each[2] for each in chosen])
    return FoundContexts(
        tuple(parts),
        torch.tensor(score),
        size_of(data.to("cpu"), shifts),
        shifts,
        torch.stack([each[3] for each in chosen]),
        cost,
    )
