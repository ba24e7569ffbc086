"""Attribution of a decoder's edges: EAP, and EAP-IG.

Question: which edges matter, all at once, to first order?
Source: EAP: Syed et al. (2310.10348), signed; EAP-IG: Hanna et al. (2403.17806, inputs), from the corrupt to
    the clean embeddings. Secants: the rescale rule of DeepLIFT (Shrikumar et al., 1704.02685) for activations; for
    the softmax our own.
Inputs: a decoder taken apart; n pairs of prompts [n, L]; a metric, logits at the prompts' ends [n, V] → [n]. Scores
    [senders, receivers] in units of the metric, NaN where there is no edge: the estimated change when the receiver
    reads from the sender what that wrote in the corrupt run.
Cost: EAP: 2n forward and n backward passes, with secants as well. EAP-IG: (2 + steps)·n forward and steps·n
    backward. One matrix product a layer.
Known failures: EAP is blind where a softmax is saturated or the metric is flat at the clean run. EAP-IG sees past
    both, but shares out along the path what takes two edges at once: where attention leaves a token only near the
    corrupt end, its value has all of the effect and its key nearly none, however many steps are taken; few steps miss
    what happens between them. IG and secants share out what several senders do only together: less than each has
    alone (AND), or more than it has (OR). IG's integral is taken by the midpoint rule (the authors' code takes the
    left end of each step).
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.gradients import metric_gradient, pull
from candling.access.graph import Graph, graph_of
from candling.access.paired_runs import CLEAN, CORRUPT, Runs, run_pairs
from candling.access.pairs import Pairs
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.techniques.locate.attribution_patching import shares
from candling.techniques.locate.contract import Axis, Metric, Scores


def edge_attribution(
    anatomy: Anatomy, pairs: Pairs, *, metric: Metric, secants: bool = False, batch: int | None = None
) -> Scores:
    """EAP: (corrupt - clean output of the sender)·(gradient at the receiver's input on the clean prompts).

    The receiver's input is that before its norm; queries, keys and values of a head are receivers apart.
    secants: the gradient takes softmaxes and activations at the slope between the two runs, so that saturation hides
    nothing. batch: pairs that share a pass, which holds senders·pairs·L·d numbers.
    """
    values, ends = _edges(anatomy, pairs, metric, batch, secants=secants)
    cost = Cost(forward=2 * len(pairs), backward=len(pairs))
    return _scores(f"edge attribution patching{', secants' * secants}", anatomy, values, ends, cost)


def edge_attribution_ig(
    anatomy: Anatomy, pairs: Pairs, *, metric: Metric, steps: int = 5, batch: int | None = None
) -> Scores:
    """EAP-IG: the same with the gradient averaged over `steps` runs whose embeddings lie between the two prompts'.

    Step k of m has the embeddings corrupt + (k - ½)/m·(clean - corrupt): the midpoint rule. The steps share a pass.
    Raises InputError for fewer than one step.
    """
    if steps < 1:
        raise bad_input("steps", f"{steps} steps give no gradient; give at least 1")
    values, ends = _edges(anatomy, pairs, metric, batch, steps=steps)
    cost = Cost(forward=(2 + steps) * len(pairs), backward=steps * len(pairs))
    return _scores("edge attribution patching, integrated gradients", anatomy, values, ends, cost)


def _scores(technique: str, anatomy: Anatomy, values: Tensor, ends: Tensor, cost: Cost) -> Scores:
    graph = graph_of(anatomy)
    axes = (Axis("sender", tuple(map(str, graph.senders))), Axis("receiver", tuple(map(str, graph.receivers))))
    corrupt, clean = ends.tolist()
    return Scores(technique, values.masked_fill(~graph.edges, torch.nan), axes, clean, corrupt, cost)


@torch.no_grad()
def _edges(
    anatomy: Anatomy, pairs: Pairs, metric: Metric, batch: int | None, *, steps: int = 0, secants: bool = False
) -> tuple[Tensor, Tensor]:
    """[senders, receivers], and the metric on corrupt and clean prompts [2]; both averaged over pairs."""
    graph = graph_of(anatomy)
    values = torch.zeros(graph.edges.shape, dtype=torch.float64)
    ends = torch.zeros(2, dtype=torch.float64)
    for own, its, tokens in shares(pairs, metric, batch):
        runs = run_pairs(anatomy, own, steps=steps, secants=secants)
        here, gradient = metric_gradient(runs, its, tokens)
        ends += here.double().sum(1).cpu()
        values += _one_pass(graph, runs, gradient).double().cpu()
    return values / len(pairs), ends / len(pairs)


def _one_pass(graph: Graph, runs: Runs, gradient: Tensor) -> Tensor:
    """The gradient at the end [G, n, 1, d] → [senders, receivers], summed over pairs."""
    senders = _senders(graph, runs)
    values = senders.new_zeros(len(graph.senders), len(graph.receivers))
    at_ends = runs.frame.ends(senders).flatten(1)
    values[:, -1] = at_ends @ gradient.mean(0).flatten()
    column = len(graph.receivers) - 1
    row = len(graph.senders)
    for found in pull(runs, gradient, by_head=True):
        assert found.by_head is not None
        inputs = found.by_head
        if found.mlp_input is not None:
            inputs = torch.cat([inputs, runs.frame.widened(found.mlp_input.mean(0))[None]])
            row -= 1  # what an MLP writes comes after its layer's readers
        columns = slice(column - len(inputs), column)
        values[:row, columns] = senders[:row].flatten(1) @ inputs.flatten(1).T
        column -= len(inputs)
        row -= graph.heads[found.layer]
    return values


def _senders(graph: Graph, runs: Runs) -> Tensor:
    """How what each sender writes differs between the runs [S, n, T, d]; of the last layer's, the ends alone."""
    first = _change(runs.embedded)
    senders = first.new_zeros(len(graph.senders), *first.shape)
    senders[0] = first
    place = 1
    for block, seen in zip(runs.anatomy.blocks, runs.blocks, strict=True):
        heads = block.attention.written(_change(seen.heads.mixed).transpose(0, 1).flatten(1, 2))
        heads = heads.unflatten(1, (runs.frame.pairs, -1))
        senders[place : place + len(heads)] = runs.frame.widened(heads)
        place += len(heads)
        if seen.units is not None:
            senders[place] = runs.frame.widened(_change(seen.units.written))
            place += 1
    return senders


def _change(both: Tensor) -> Tensor:
    """[R, ...] → [...]: how the corrupt run differs from the clean one."""
    return both[CORRUPT] - both[CLEAN]
