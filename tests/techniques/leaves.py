"""Decoders run slowly, head by head, with a leaf at every node and every receiver's input: autograd does the rest."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from candling.access import Decoder, family_of
from candling.access.anatomy import MLP, Anatomy, Attention
from candling.access.dissect import dissect
from candling.access.pairs import Pairs

sys.path.append(str(Path(__file__).parents[1] / "access"))
from languages import SETTINGS, VOCABULARY, network

KINDS = sorted(SETTINGS)


@cache
def exact(kind: str, dtype: torch.dtype = torch.float64) -> Anatomy:
    """A tiny network of the family, in float64 unless told, its weights, norms and biases larger than they start."""
    whole = Decoder(network(kind), family_of({"model_type": kind})).eval().double()
    g = torch.Generator().manual_seed(5)
    for parameter in whole.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=g).double()
        else:
            parameter.data *= 8  # sharper attention, busier MLPs
    return dissect(whole.to(dtype).requires_grad_(False)).anatomy


def some_pairs(n: int = 3, length: int = 12, first: int = 4, seed: int = 0) -> Pairs:
    """Pairs that agree up to `first`; prompts end at different places, the first of them at the first difference."""
    g = torch.Generator().manual_seed(seed)
    clean, other = torch.randint(VOCABULARY, (2, n, length), generator=g)
    corrupt = torch.where(torch.rand((n, length), generator=g) < 0.6, other, clean)
    corrupt[:, :first] = clean[:, :first]
    corrupt[:, first] = (clean[:, first] + 1) % VOCABULARY
    last = torch.linspace(first, length - 2, n).long()
    answers = torch.randint(VOCABULARY, (2, n), generator=g)
    return Pairs(clean, corrupt, answers[0], answers[1], last)


def lone_head(attention: Attention, head: int) -> Attention:
    """One query head and what it reads, its output bias left out."""
    group = head * attention.groups // attention.heads
    own = {"query": head, "query_bias": head, "output": head, **dict.fromkeys(("key", "value"), group)}
    own |= dict.fromkeys(("key_bias", "value_bias"), group)
    cut = {
        name: getattr(attention, name)[i : i + 1] for name, i in own.items() if getattr(attention, name) is not None
    }
    return replace(attention, **cut, output_bias=None)


class Slow:
    """A run of `anatomy`; `added` is put on top of a node or a receiver's input, by name, and flows on from there.

    leaves: by name, zeros or what was added, with gradients. values: what nodes are. written: by sender.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokens: Tensor,
        *,
        added: Mapping[str, Tensor] | None = None,
        embedded: Tensor | None = None,
        drop: int | None = None,
    ) -> None:
        self.added = added or {}
        self.leaves: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.written: dict[str, Tensor] = {}
        x = anatomy.embed(tokens) if embedded is None else embedded
        self.written["embed"] = x
        for layer, block in enumerate(anatomy.blocks):
            x = self.node(f"{layer}.resid_pre", x)
            name, attention = f"blocks.{layer}", block.attention
            heads = self.heads(layer, attention, lambda y, block=block: block.attention_norm(y), x)
            attended = sum(heads) if attention.output_bias is None else sum(heads) + attention.output_bias
            out = self.node(f"{layer}.attn.out", attended)
            if block.mlp is not None:
                read = self.node(f"{name}.mlp.in", x if block.parallel else x + out)
                neurons = self.node(f"{layer}.mlp.neurons", self.risen(layer, block.mlp, block.mlp_norm(read)))
                rise = self.node(f"{layer}.mlp.out", block.mlp.written(neurons))
                self.written[f"{name}.mlp.out"] = rise
                out = out + rise
            x = x + (out.detach() if drop == layer else out)
        x = self.node("final.resid_pre", x)
        self.logits = anatomy.unembed(self.node("logits", x))

    def node(self, name: str, value: Tensor) -> Tensor:
        self.values[name] = value.detach()
        self.leaves[name] = self.added.get(name, torch.zeros_like(value)).detach().clone().requires_grad_()
        return value + self.leaves[name]

    def heads(self, layer: int, attention: Attention, norm: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
        ratio, name = attention.heads // attention.groups, f"blocks.{layer}.attn"
        keys, values, found = [], [], []
        for group in range(attention.groups):
            lone = lone_head(attention, group * ratio)
            reads = (norm(self.node(f"{name}.head_{slot}_in.{group}", x)) for slot in "kv")
            keys.append(self.node(f"{layer}.attn.k.{group}", lone.keys(next(reads))[:, 0]))
            values.append(self.node(f"{layer}.attn.v.{group}", lone.values(next(reads))[:, 0]))
        for head in range(attention.heads):
            lone = lone_head(attention, head)
            read = norm(self.node(f"{name}.head_q_in.{head}", x))
            query = self.node(f"{layer}.attn.q.{head}", lone.queries(read)[:, 0])
            pattern = self.node(
                f"{layer}.pattern.{head}", self.looked(lone, query, keys[head // ratio], (layer, head))
            )
            out = self.node(f"{layer}.attn.head_out.{head}", pattern @ values[head // ratio] @ attention.output[head])
            self.written[f"{name}.head_out.{head}"] = out
            found.append(out)
        return found

    def looked(self, lone: Attention, query: Tensor, key: Tensor, place: tuple[int, int]) -> Tensor:
        """[n, L, e] twice → the pattern [n, L, L]"""
        return lone.scores(query[:, None], key[:, None])[:, 0].softmax(-1)

    def risen(self, layer: int, mlp: MLP, x: Tensor) -> Tensor:
        """[n, L, d], normed → [n, L, m]"""
        return mlp.neurons(x)

    def ends(self, pairs: Pairs) -> Tensor:
        """[n, V]"""
        return self.logits[torch.arange(len(pairs)), pairs.last]

    def gradients(self, pairs: Pairs, metric: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        total = metric(self.ends(pairs)).sum()
        found = torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if each is None else each
            for (name, leaf), each in zip(self.leaves.items(), found, strict=True)
        }


def tensors(part: Any) -> list[Tensor]:
    """All weights of an anatomy."""
    if isinstance(part, Tensor):
        return [part]
    inner = [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else part
    return [t for each in inner for t in tensors(each)] if isinstance(inner, list | tuple) else []
