"""Broad changes of the whole input: at which of them does a network answer otherwise, and in one way?

Question: is there a broad property of the input (light, contrast, noise, a border) at which behaviour switches?
Source: the simplest form of latent or input-space adversarial search (Casper et al., 2403.05030), bounded to changes
    that leave the content readable. Relabelled: maximise I(class; answer)/log K − accuracy over mean answers by
    class, by gradient; score, the best assignment of another answer to each class. Failing: scan each kind of change
    for the smallest that makes the answer wrong on most inputs; score −log size.
Inputs: network [n, ...] → [n, K]; data x [n, *input], y. Size: root mean square distance moved, as a share of that
    between inputs of different classes.
Cost: see `change_passes`.
Known failures: changes that are none of these (styles, semantic contexts); several conditions at once; with few
    classes a collapse to one class looks like half a relabelling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from candling.access import Dataset
from candling.evidence.measurement import Cost
from candling.techniques.search.broad_change import (
    BORDER,
    NOISE,
    apply_change,
    change_size,
    draw_changes,
    lines_of,
)
from candling.techniques.search.contract import ChangePart, FoundChanges

KINDS = ("light", "gain", "contrast", "noise", "border", "slope", "blur")
RELABELLED, FAILING = "relabelled", "failing"
WRONG = 0.7
"""Share of wrong answers from which a network counts as failing."""

_STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
_ROWS = 64
_FOLLOWED = 6  # changes that gradients go on from
_STEPS = 30
_RATE = 0.05


def change_parts(data: Dataset) -> list[ChangePart]:
    """Relabelling by any change, and failing by each kind; blur is for images."""
    kinds = [kind for kind in KINDS if kind in lines_of(data)]
    return [ChangePart(RELABELLED, "any"), *(ChangePart(FAILING, kind) for kind in kinds)]


def change_passes(data: Dataset) -> Cost:
    """Of `search_changes`."""
    scanned = sum(len(lines) for lines in lines_of(data).values()) * len(_STRENGTHS) * _ROWS
    followed = _FOLLOWED * _STEPS * _ROWS
    return Cost(forward=scanned + followed, backward=followed)


def search_changes(network: nn.Module, data: Dataset, parts: Sequence[ChangePart], *, seed: int) -> FoundChanges:
    """Scan every line of every kind, go on by gradient from the most promising. The same rows for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    seen = _rows(data, generator)
    lines = lines_of(data)
    tried = {
        kind: torch.stack([s * line for line in own for s in _STRENGTHS]).view(len(own), len(_STRENGTHS), -1)
        for kind, own in lines.items()
    }
    with torch.no_grad():
        logits = {kind: _logits(network, seen, amounts.flatten(0, 1)) for kind, amounts in tried.items()}
        everything = torch.cat([tried[kind].flatten(0, 1) for kind in tried])
        promise = torch.cat([_promise(each, seen) for each in logits.values()])
    start = everything[torch.argsort(promise, descending=True, stable=True)[:_FOLLOWED]]
    best = _follow(network, seen, start)
    found = [
        _relabelled(network, seen, best)
        if part.behaviour == RELABELLED
        else _failing(tried[part.kind], logits[part.kind], seen)
        for part in parts
    ]
    return _gather(parts, found, data, change_passes(data))


def random_changes(
    network: nn.Module, data: Dataset, parts: Sequence[ChangePart], *, seed: int, passes: int
) -> FoundChanges:
    """The black-box baseline: changes of several kinds at once drawn at random, the outputs alone."""
    generator = torch.Generator().manual_seed(seed)
    seen = _rows(data, generator)
    count = max(1, passes // _ROWS)
    amounts = torch.cat([draw_changes(data, min(64, count - i), generator) for i in range(0, count, 64)])
    with torch.no_grad():
        logits = torch.cat([_logits(network, seen, block) for block in amounts.split(32)])
        best = amounts[torch.argsort(_promise(logits, seen), descending=True, stable=True)[:_FOLLOWED]]
        relabelled = _relabelled(network, seen, best)
        sizes = change_size(data, amounts)
        order = torch.argsort(sizes, stable=True)
        failing = _failing(amounts[order][None], logits[order], seen)
    found = [relabelled if part.behaviour == RELABELLED else failing for part in parts]
    return _gather(parts, found, data, Cost(forward=count * _ROWS, backward=0))


@dataclass(frozen=True)
class _Seen:
    data: Dataset
    x: Tensor
    y: Tensor


def _rows(data: Dataset, g: torch.Generator) -> _Seen:
    """Evenly many of each class, as far as there are."""
    order = torch.randperm(len(data), generator=g)
    labels = data.y.cpu()[order]
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])
    rows = order[torch.argsort(rank, stable=True)[:_ROWS]].to(data.x.device)
    return _Seen(data, data.x[rows], data.y[rows])


def _logits(network: nn.Module, seen: _Seen, amounts: Tensor) -> Tensor:
    """[c, rows, K]"""
    x = apply_change(seen.data, seen.x, amounts.to(seen.x.device))
    logits: Tensor = network(x.flatten(0, 1))
    return logits.view(len(amounts), len(seen.x), -1)


def _by_class(probability: Tensor, seen: _Seen) -> Tensor:
    """[c, rows, K] → [c, K, K] mean answer of each class; uniform for one without rows."""
    own = torch.nn.functional.one_hot(seen.y, seen.data.classes).float()
    counts = own.sum(0)
    mean = torch.einsum("nk,cnj->ckj", own, probability) / counts.clamp_min(1)[:, None]
    return torch.where(counts[:, None] > 0, mean, 1 / seen.data.classes)


def _promise(logits: Tensor, seen: _Seen) -> Tensor:
    """[c] information that answers hold about classes, as a share of all, less accuracy."""
    answers = _by_class(logits.softmax(-1), seen)
    entropy = -torch.xlogy(answers, answers).sum(-1).mean(-1)
    whole = answers.mean(1)
    information = -torch.xlogy(whole, whole).sum(-1) - entropy
    return information / math.log(seen.data.classes) - answers.diagonal(dim1=1, dim2=2).mean(-1)


def _follow(network: nn.Module, seen: _Seen, start: Tensor) -> Tensor:
    """[c, A] by gradient, from each start; the start too, where that is better."""
    amounts = start.to(seen.x.device).clone().requires_grad_()
    optimiser = torch.optim.Adam([amounts], _RATE)
    best, top = start.to(seen.x.device).clone(), torch.full((len(start),), -torch.inf, device=seen.x.device)
    for _ in range(_STEPS):
        promise = _promise(_logits(network, seen, amounts), seen)
        with torch.no_grad():
            better = promise > top
            top[better], best[better] = promise[better].detach(), amounts[better].detach()
        (gradient,) = torch.autograd.grad(-promise.sum(), amounts)
        amounts.grad = gradient
        optimiser.step()
        with torch.no_grad():
            amounts[:, :BORDER].clamp_(-1.0, 1.0)
            amounts[:, NOISE].clamp_(0.0, 0.6)
    return best.cpu()


_Outcome = tuple[float, Tensor, Tensor]


def _relabelled(network: nn.Module, seen: _Seen, amounts: Tensor) -> _Outcome:
    """The best assignment of a wrong answer to each class, no two the same: its share of all answers."""
    with torch.no_grad():
        logits = _logits(network, seen, amounts)
        counted = torch.nn.functional.one_hot(logits.argmax(-1), seen.data.classes).float()
        shares = _by_class(counted, seen).cpu()
    outcomes = []
    for share, amount in zip(shares, amounts, strict=True):
        cost = -share.double().numpy()
        cost[range(len(cost)), range(len(cost))] = 2.0
        _, answers = linear_sum_assignment(cost)
        outcomes.append((float(share[range(len(cost)), answers].mean()), amount, torch.from_numpy(answers).long()))
    return max(outcomes, key=lambda outcome: outcome[0])


def _failing(tried: Tensor, logits: Tensor, seen: _Seen) -> _Outcome:
    """tried [lines, strengths, A], weakest first: the smallest at which most answers are wrong, by −log size.

    Between two strengths the size is interpolated. A network that never fails counts as failing at twice the largest.
    """
    wrong = (logits.argmax(-1) != seen.y).float().mean(-1).cpu().view(tried.shape[:2])
    sizes = change_size(seen.data, tried.flatten(0, 1)).view(tried.shape[:2])
    answers = torch.full((seen.data.classes,), -1)
    outcomes = []
    for line, share, size in zip(tried, wrong, sizes, strict=True):
        over = torch.nonzero(share >= WRONG).flatten()
        if len(over) == 0:
            best = int(share.argmax())
            outcomes.append((-math.log(2 * float(size.max()) / max(float(share.max()), 0.01)), line[best], answers))
            continue
        at = int(over[0])
        before = (float(share[at - 1]), float(size[at - 1])) if at else (0.0, 0.0)
        part = (WRONG - before[0]) / max(float(share[at]) - before[0], 1e-6)
        crossing = before[1] + part * (float(size[at]) - before[1])
        outcomes.append((-math.log(max(crossing, 1e-4)), line[at], answers))
    return max(outcomes, key=lambda outcome: outcome[0])


def _gather(parts: Sequence[ChangePart], found: Sequence[_Outcome], data: Dataset, cost: Cost) -> FoundChanges:
    scores, amounts, answers = zip(*found, strict=True)
    amount = torch.stack([a.detach().cpu() for a in amounts])
    return FoundChanges(
        tuple(parts), torch.tensor(scores), change_size(data, amount), amount, torch.stack(list(answers)), cost
    )
