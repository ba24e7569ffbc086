"""Exact edge patching the slow way: one edge after another, one sender at a time, in float64."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from candling.access.anatomy import Anatomy
from candling.access.graph import graph_of
from candling.access.pairs import Pairs

Edge = tuple[str, str]


def doubled(part: Any) -> Any:
    """The same network in float64."""
    if isinstance(part, Tensor):
        return part.double()
    if isinstance(part, tuple):
        return tuple(doubled(each) for each in part)
    if is_dataclass(part):
        return replace(part, **{each.name: doubled(getattr(part, each.name)) for each in fields(part)})
    return part


def run(
    anatomy: Anatomy, tokens: Tensor, other: dict[str, Tensor], cut: Edge | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [n, L, V] and what each sender writes; the receiver of `cut` sees the sender as it is in `other`."""
    seen = {"embed": anatomy.embed(tokens)}

    def read(receiver: str) -> Tensor:
        return sum((other[s] if (s, receiver) == cut else x for s, x in seen.items()), torch.zeros(()))

    for layer, block in enumerate(anatomy.blocks):
        own, new = block.attention, {}
        for head in range(own.heads):
            name = f"blocks.{layer}.attn.head_{{}}.{head}"
            q, k, v = (read(name.format(f"{slot}_in")) for slot in "qkv")
            query = linear(q, own.query[head], None if own.query_bias is None else own.query_bias[head])
            score = query @ linear(k, own.key[head]).transpose(-1, -2) * own.scale
            future = torch.ones_like(score, dtype=torch.bool).triu(1)
            pattern = score.masked_fill(future, -torch.inf).softmax(-1)
            new[name.format("out")] = pattern @ linear(v, own.value[head]) @ own.output[head]
        seen |= new
        if block.mlp is not None:
            hidden = linear(read(f"blocks.{layer}.mlp.in"), block.mlp.up, block.mlp.up_bias).clamp(min=0)
            seen[f"blocks.{layer}.mlp.out"] = linear(hidden, block.mlp.down, block.mlp.down_bias)
    return linear(read("logits"), anatomy.unembedding, anatomy.unembedding_bias), seen


def exact_edges(anatomy: Anatomy, pairs: Pairs, *, denoising: bool = False, zero: bool = False) -> Tensor:
    """[senders, receivers] change of the logit difference, averaged over pairs; NaN where there is no edge."""
    anatomy = doubled(anatomy)
    base, source = (pairs.corrupt, pairs.clean) if denoising else (pairs.clean, pairs.corrupt)
    rows = torch.arange(len(pairs))

    def metric(logits: Tensor) -> Tensor:
        at_last = logits[rows, pairs.last]
        return (at_last[rows, pairs.answer] - at_last[rows, pairs.wrong]).mean()

    _, other = run(anatomy, source, {})
    other = {name: 0 * x for name, x in other.items()} if zero else other
    before = metric(run(anatomy, base, {})[0])
    graph = graph_of(anatomy)
    found = torch.full(graph.edges.shape, torch.nan, dtype=torch.float64)
    for s, r in torch.nonzero(graph.edges).tolist():
        edge = (str(graph.senders[s]), str(graph.receivers[r]))
        found[s, r] = metric(run(anatomy, base, other, edge)[0]) - before
    return found
