"""Circuits run as they are: a receiver reads current values where an edge is kept, the other run's where it is cut.

What a sender writes is recomputed from its own mixed input as the pass goes on, with queries, keys and values of
every head apart; a norm is applied to the mixed input of the receiver that it serves. Biases of attention's output
belong to no sender and are always there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Block
from candling.access.graph import SLOTS, Graph, Node, graph_of
from candling.access.pairs import Pairs
from candling.access.wording import bad_input

VALUES = 1 << 25
"""Numbers that the senders' values of one batch of masks may fill."""


def lone(attention: Attention, head: int) -> Attention:
    """One query head with the key-value head that it reads; its output bias left out."""
    own, group = slice(head, head + 1), head * attention.groups // attention.heads
    shared = slice(group, group + 1)
    return replace(
        attention,
        query=attention.query[own],
        key=attention.key[shared],
        value=attention.value[shared],
        output=attention.output[own],
        query_bias=None if attention.query_bias is None else attention.query_bias[own],
        key_bias=None if attention.key_bias is None else attention.key_bias[shared],
        value_bias=None if attention.value_bias is None else attention.value_bias[shared],
        output_bias=None,
    )


def written(anatomy: Anatomy, tokens: Tensor) -> Tensor:
    """What every sender adds to the residual stream in an ordinary run: int64 [n, L] → [senders, n, L, d]

    Their sum and attention's output biases are what is unembedded.
    """
    x = anatomy.embed(tokens)
    found = [x[None]]
    for block in anatomy.blocks:
        heads = block.attention.written(block.attention.mixed(block.attention_norm(x))).movedim(-3, 0)
        found.append(heads)
        middle = x + heads.sum(0)
        if block.attention.output_bias is not None:
            middle = middle + block.attention.output_bias
        if block.mlp is not None:
            hidden = block.mlp(block.mlp_norm(x if block.parallel else middle))
            found.append(hidden[None])
            middle = middle + hidden
        x = middle
    return torch.cat(found)


class EdgeRun:
    """A decoder on pairs, ready to be run as any circuit of its graph.

    A run starts from the clean prompts, and cut edges carry what the senders wrote on the corrupt ones (noising);
    `denoising` turns this round. With all edges kept a run gives the first prompts' logits, with none the other's.
    """

    def __init__(
        self, anatomy: Anatomy, pairs: Pairs, *, denoising: bool = False, source: Tensor | None = None
    ) -> None:
        """Costs one forward pass of the prompts whose values cut edges carry.

        source: what cut edges carry instead, [senders, n, L, d] or what broadcasts to it (zeros [1, 1, 1, 1], the
        mean over prompts [senders, 1, L, d]). Raises InputError where it does not fit.
        """
        self.anatomy, self.pairs, self.graph = anatomy, pairs, graph_of(anatomy)
        self.denoising = denoising
        self._ends = int(pairs.last.max()) + 1
        """Attention is causal: what stands further right cannot matter."""
        base, other = (pairs.corrupt, pairs.clean) if denoising else (pairs.clean, pairs.corrupt)
        self._tokens = base[:, : self._ends]
        shape = (len(self.graph.senders), len(pairs), self._ends, anatomy.width)
        with torch.no_grad():
            if source is None:
                self.source = written(anatomy, other[:, : self._ends])
            else:
                self.source = _fitted(source, shape, pairs.length)
        """[senders, n, L', d], L' the longest prompt"""

    def __call__(self, kept: Tensor) -> Tensor:
        """Logits at the prompts' ends: bool [senders, receivers] → [n, V], [m, senders, receivers] → [m, n, V]

        Floats between 0 and 1 mix the two values, and gradients reach them. Entries that are no edges have no
        effect. Costs m forward passes and the split inputs. Raises InputError where the mask does not fit.
        """
        edges = self.graph.edges
        if kept.shape[-2:] != edges.shape or kept.ndim not in (2, 3):
            raise bad_input("mask", f"shape {list(kept.shape)} is not [senders, receivers] = {list(edges.shape)}")
        masks = kept if kept.ndim == 3 else kept[None]
        masks = (masks * edges.to(kept.device)).to(self.source)
        with torch.set_grad_enabled(torch.is_grad_enabled() and kept.requires_grad):
            logits = torch.cat([self._run(part) for part in masks.split(max(1, VALUES // self.source.numel()))])
        return logits if kept.ndim == 3 else logits[0]

    def _run(self, masks: Tensor) -> Tensor:
        """[m, senders, receivers] → [m, n, V]"""
        anatomy, count = self.anatomy, len(masks)
        changed = (anatomy.embed(self._tokens) - self.source[0]).expand(count, 1, *self.source.shape[1:])
        source, bias = self.source, torch.zeros((), dtype=self.source.dtype, device=self.source.device)
        place = 0
        for block, last in _marked(anatomy.blocks):
            own = block.attention
            inputs = slice(place, place + own.heads + 2 * own.groups)
            seen = changed.shape[1]
            x = _mix(masks[:, :seen, inputs], changed, source[:seen]) + bias
            heads = self._heads(block, x)
            place = inputs.stop
            if last:  # only the prompts' ends matter from here on
                heads, changed, source = (self._at_ends(each) for each in (heads, changed, source))
            changed = torch.cat([changed, heads - source[seen : seen + own.heads]], 1)
            before = bias
            bias = bias if own.output_bias is None else bias + own.output_bias
            if block.mlp is None:
                continue
            visible = seen if block.parallel else seen + own.heads
            x = _mix(masks[:, :visible, place : place + 1], changed[:, :visible], source[:visible])
            hidden = block.mlp(block.mlp_norm(x + (before if block.parallel else bias)))
            place += 1
            changed = torch.cat([changed, hidden - source[seen + own.heads]], 1)
        x = _mix(masks[:, :, place:], changed, source) + bias
        return anatomy.unembed(x[:, 0, :, 0])

    def _heads(self, block: Block, x: Tensor) -> Tensor:
        """Mixed inputs of queries, keys and values [m, H + 2 K, n, L, d] → what heads write [m, H, n, L, d]"""
        own = block.attention
        queries, keys, values = block.attention_norm(x).split([own.heads, own.groups, own.groups], 1)
        ratio = own.heads // own.groups
        asking = torch.cat([lone(own, i).queries(each) for i, each in enumerate(queries.unbind(1))], -3)
        asked = torch.cat([lone(own, i * ratio).keys(each) for i, each in enumerate(keys.unbind(1))], -3)
        told = torch.cat([lone(own, i * ratio).values(each) for i, each in enumerate(values.unbind(1))], -3)
        pattern = own.scores(asking, own.spread(asked)).softmax(-1)
        return own.written(pattern @ own.spread(told)).movedim(-3, 1)

    def _at_ends(self, x: Tensor) -> Tensor:
        """[..., n, L, d] → [..., n, 1, d]"""
        rows = torch.arange(len(self.pairs), device=x.device)
        return x[..., rows, self.pairs.last, :].unsqueeze(-2)


def ablate_edges(
    anatomy: Anatomy, pairs: Pairs, kept: Tensor, *, denoising: bool = False, source: Tensor | None = None
) -> Tensor:
    """`EdgeRun` for one call: [senders, receivers] → logits [n, V], [m, senders, receivers] → [m, n, V]"""
    return EdgeRun(anatomy, pairs, denoising=denoising, source=source)(kept)


def _mix(masks: Tensor, changed: Tensor, source: Tensor) -> Tensor:
    """What receivers read: masks [m, S, R], current values less the source's [m, S, n, L, d], the source's
    [S, n, L, d] → [m, R, n, L, d]"""
    kept = masks.transpose(1, 2) @ changed.flatten(2)
    mixed: Tensor = kept.unflatten(-1, changed.shape[2:]) + source.sum(0)
    return mixed


def _marked(blocks: tuple[Block, ...]) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether it is the last."""
    yield from ((block, place == len(blocks) - 1) for place, block in enumerate(blocks))


def _fitted(source: Tensor, shape: tuple[int, ...], length: int) -> Tensor:
    given = source[..., : shape[2], :] if source.ndim == 4 and source.shape[2] == length else source
    try:
        return given.expand(shape).contiguous()
    except RuntimeError:
        wanted = [shape[0], shape[1], length, shape[3]]
        raise bad_input("source", f"shape {list(source.shape)} does not broadcast to {wanted}") from None


def computed_from(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Of each sender the places of the receivers that it computes with: of a head its queries, keys and values."""
    places = {node: place for place, node in enumerate(graph.receivers)}
    found: list[tuple[int, ...]] = []
    for sender in graph.senders:
        if sender.kind == "head":
            group = sender.index * graph.groups[sender.layer] // graph.heads[sender.layer]
            slots = zip(SLOTS, (sender.index, group, group), strict=True)
            found.append(tuple(places[Node("head", sender.layer, place, slot)] for slot, place in slots))
        else:
            found.append((places[replace(sender, slot="in")],) if sender.kind == "mlp" else ())
    return tuple(found)
