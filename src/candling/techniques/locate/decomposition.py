"""Exact path decomposition: logits as a sum over parts, and heads as the maps that they are.

Question: what does each part write straight into the logits, and whose output does a head read by Q, K or V?
Source: Elhage et al. (2021, A Mathematical Framework for Transformer Circuits): direct paths, QK and OV circuits,
    composition ‖AB‖/(‖A‖ ‖B‖) in Frobenius norms.
Inputs: a decoder taken apart; prompts int64 [n, L] and their last positions [n]. Logits in logits; compositions
    between 0 and 1, and in standard deviations of shuffled weights.
Cost: n forward passes for the logits; circuits and compositions read weights alone.
Known failures: the final norm is frozen at each token's own scale, so a part's share is not what its removal does;
    without a centred unembedding shares hold what all logits have in common; composition weighs all directions
    alike, though few occur; rotations, query and key norms and biases stand outside QK circuits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Norm
from candling.access.edges import lone, written
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, LogitDifference, Scores

BIAS = "bias"
"""All that belongs to no sender: biases of attention's output, of the final norm and of the unembedding."""

COMPOSITIONS = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class DirectLogits:
    """What each part adds to the logits on the straight way. The sum over parts is the logits."""

    labels: tuple[str, ...]
    """Senders in the order of computation, then `BIAS`."""
    values: Tensor
    """[senders + 1, n, V], or of the tokens asked for [senders + 1, n, a]"""


@torch.no_grad()
def direct_logits(
    anatomy: Anatomy, tokens: Tensor, last: Tensor, *, answers: Tensor | None = None, centred: bool = False
) -> DirectLogits:
    """Direct logit attribution at one position of each prompt: tokens int64 [n, L], last [n].

    answers: int64 [a], the tokens whose logits are wanted. centred: the mean over the vocabulary is taken from the
    unembedding, and the sum over parts is the logits less their mean. Costs n forward passes.
    """
    parts, bias = _at_ends(anatomy, tokens, last)
    total = parts.sum(0) + bias
    scaled = _frozen(anatomy.final_norm, torch.cat([parts, bias.expand_as(total)[None]]), total)
    weight, shift = anatomy.unembedding, anatomy.unembedding_bias
    if centred:
        weight, shift = weight - weight.mean(0), None if shift is None else shift - shift.mean()
    if answers is not None:
        weight, shift = weight[answers], None if shift is None else shift[answers]
    values = scaled @ weight.T
    values[-1] += 0 if shift is None else shift
    if anatomy.final_norm.bias is not None:
        values[-1] += anatomy.final_norm.bias @ weight.T
    return DirectLogits((*map(str, graph_of(anatomy).senders), BIAS), values)


def direct_effects(anatomy: Anatomy, pairs: Pairs, *, denoising: bool = False) -> Scores:
    """How far the logit difference moves where one sender's direct share alone is the other run's: [senders].

    The final norm keeps the scale of the run that is patched. Costs 2n forward passes.
    """
    metric = LogitDifference(pairs.answer, pairs.wrong)
    base, other = (pairs.corrupt, pairs.clean) if denoising else (pairs.clean, pairs.corrupt)
    with torch.no_grad():
        (own, bias), (new, _) = (_at_ends(anatomy, tokens, pairs.last) for tokens in (base, other))
        total = own.sum(0) + bias
        moved = _frozen(anatomy.final_norm, new - own, total)
        rows = anatomy.unembedding[pairs.answer] - anatomy.unembedding[pairs.wrong]
        values = (moved * rows).sum(-1).double().mean(-1)
        ends = (float(metric(anatomy.unembed(each)).double().mean()) for each in (total, new.sum(0) + bias))
    first, second = ends
    return Scores(
        technique="direct logit attribution",
        values=values,
        axes=(Axis("sender", tuple(map(str, graph_of(anatomy).senders))),),
        clean=second if denoising else first,
        corrupt=first if denoising else second,
        cost=Cost(forward=2 * len(pairs), backward=0),
        denoising=denoising,
    )


def qk_circuit(attention: Attention, head: int, norm: Norm | None = None) -> Tensor:
    """[d, d]: x · QK · yᵀ is the score, before the softmax, of a query at x for a key at y.

    x and y are what the head reads after the norm, or with `norm` before it, scaled to the norm's size (its weight
    and centring are part of the map). Biases are left out; rotations are those of a token that looks at itself.
    Raises InputError where queries and keys are normed, which no map does.
    """
    own = lone(attention, head)
    if not (own.query_norm.trivial and own.key_norm.trivial):
        raise bad_input("circuit", "queries and keys are normed in this network; its scores are no bilinear map")
    query, key = _folded(own.query[0], norm), _folded(own.key[0], norm)
    return query.T @ key * own.scale


def ov_circuit(attention: Attention, head: int, norm: Norm | None = None) -> Tensor:
    """[d, d]: x · OV is what the head writes for each unit of attention that it pays to x; biases are left out.

    norm: as for `qk_circuit`.
    """
    own = lone(attention, head)
    return _folded(own.value[0], norm).T @ own.output[0]


@dataclass(frozen=True, eq=False)
class Composition:
    """How strongly heads read what earlier heads write."""

    heads: tuple[str, ...]
    values: Tensor
    """[3, heads, heads]: by Q, K and V, of the writer (row) with the reader (column); NaN unless the writer is in an
    earlier layer"""
    z: Tensor
    """The same in standard deviations from the mean of shuffled weights."""

    def best(self, slot: str, count: int = 5) -> list[tuple[str, str, float]]:
        """Writer, reader and z of the strongest compositions by Q, K or V (`q`, `k`, `v`)."""
        table = self.z[COMPOSITIONS.index(slot)].nan_to_num(-torch.inf)
        order = table.flatten().argsort(descending=True, stable=True)[:count].tolist()
        places = [divmod(place, len(self.heads)) for place in order]
        return [(self.heads[w], self.heads[r], float(table[w, r])) for w, r in places if table[w, r] > -torch.inf]


@torch.no_grad()
def composition(anatomy: Anatomy, *, shuffles: int = 30, seed: int = 0) -> Composition:
    """Composition of every two heads: ‖OV·QK‖/(‖OV‖ ‖QK‖) by Q, with QKᵀ by K, with the reader's OV by V.

    The weight and centring of the norm that a reader reads through are part of its map. Baseline: the same heads with
    the entries of each query, key, value and output map shuffled, `shuffles` (at least 2) times. Rotations, biases
    and norms of queries and keys are left out. Raises InputError for fewer shuffles.
    """
    if shuffles < 2:
        raise bad_input("shuffles", f"{shuffles} shuffles have no standard deviation; give 2 or more")
    heads = _heads(anatomy)
    layers = torch.tensor([layer for layer, _ in heads.places])
    generator = torch.Generator().manual_seed(seed)
    there = layers[:, None] < layers[None]
    values = _composed(heads).where(there, torch.nan)
    drawn = torch.stack([_composed(_shuffled(heads, generator)) for _ in range(shuffles)])
    z = (values - drawn.mean(0)) / drawn.std(0)
    return Composition(tuple(f"blocks.{i}.attn.head_out.{h}" for i, h in heads.places), values, z)


class _Heads(NamedTuple):
    """All heads of a network, [heads, e, d] each; float64 on the CPU."""

    places: list[tuple[int, int]]
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor


def _heads(anatomy: Anatomy) -> _Heads:
    places = [(i, h) for i, block in enumerate(anatomy.blocks) for h in range(block.attention.heads)]
    if len({anatomy.blocks[i].attention.query.shape[1] for i, _ in places}) > 1:
        raise bad_input("anatomy", "heads of unlike sizes; composition compares heads of one size")
    found: list[list[Tensor]] = [[], [], [], []]
    for layer, head in places:
        block = anatomy.blocks[layer]
        own = lone(block.attention, head)
        maps = [_folded(each[0], block.attention_norm) for each in (own.query, own.key, own.value)]
        for kept, each in zip(found, [*maps, own.output[0]], strict=True):
            kept.append(each.double().cpu())
    return _Heads(places, *(torch.stack(each) for each in found))


def _shuffled(heads: _Heads, generator: torch.Generator) -> _Heads:
    def mixed(maps: Tensor) -> Tensor:
        flat = maps.flatten(1)
        return flat.gather(1, torch.rand(flat.shape, generator=generator).argsort(1)).view_as(maps)

    return _Heads(heads.places, *(mixed(each) for each in heads[1:]))


def _composed(heads: _Heads) -> Tensor:
    """[3, writers, readers]. A product of four maps [d, e] [e, d] [d, e] [e, d] has its norm from [e, e] alone."""
    _, query, key, value, output = heads
    inner = {name: each @ each.mT for name, each in (("q", query), ("k", key), ("v", value), ("o", output))}

    def norm(left: Tensor, right: Tensor) -> Tensor:
        """‖AᵀB‖ of maps [e, d] with inner products left and right: [heads]"""
        return (left * right).sum((-2, -1)).clamp(min=0).sqrt()

    own = norm(inner["v"], inner["o"])
    found = []
    for reader, rest in (("q", "k"), ("k", "q"), ("v", "o")):
        reading = {"q": query, "k": key, "v": value}[reader]
        between = torch.einsum("wed,rfd->wref", output, reading)
        squared = torch.einsum("weg,wref,rfh,wrgh->wr", inner["v"], between, inner[rest], between)
        found.append(squared.clamp(min=0).sqrt() / (own[:, None] * norm(inner[reader], inner[rest])[None]))
    return torch.stack(found)


def _folded(map_: Tensor, norm: Norm | None) -> Tensor:
    """A map [e, d] with the weight and the centring of the norm that it reads through."""
    if norm is None or norm.trivial:
        return map_
    weighed = map_ if norm.weight is None else map_ * norm.weight
    return weighed - weighed.mean(-1, keepdim=True) if norm.centred else weighed


def _at_ends(anatomy: Anatomy, tokens: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """What senders write at the prompts' ends [senders, n, d], and attention's biases [d]."""
    bias = torch.zeros(anatomy.width, dtype=anatomy.embedding.dtype, device=anatomy.embedding.device)
    for block in anatomy.blocks:
        bias = bias if block.attention.output_bias is None else bias + block.attention.output_bias
    return written(anatomy, tokens)[:, torch.arange(len(tokens)), last], bias


def _frozen(norm: Norm, parts: Tensor, total: Tensor) -> Tensor:
    """Parts [..., n, d] through the norm as it is at `total` [n, d], a linear map there; its bias apart."""
    if norm.trivial:
        return parts
    if norm.centred:
        parts = parts - parts.mean(-1, keepdim=True)
        total = total - total.mean(-1, keepdim=True)
    scaled = parts * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + norm.eps)
    return scaled if norm.weight is None else scaled * norm.weight
