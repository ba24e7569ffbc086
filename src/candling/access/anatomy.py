"""One form for every decoder: its weights by head and by role, and the forward pass that they define.

Nothing is folded or copied that need not be: the tensors are views of the network's own parameters. Techniques that
need split query, key and value inputs, single heads or patterns compose them from these parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Norm:
    """LayerNorm where `centred`, RMSNorm where not; without weight, bias and eps the identity."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 0.0
    centred: bool = True

    @property
    def trivial(self) -> bool:
        """Does it leave its input as it is?"""
        return self.weight is None and self.bias is None and self.eps == 0.0

    def __call__(self, x: Tensor) -> Tensor:
        if self.trivial:
            return x
        if self.centred:
            return layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return scaled if self.weight is None else scaled * self.weight


Rotation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""positions int64 [L] → cosine and sine [L, r], of which the first r of a head's e dimensions are turned"""


@dataclass(frozen=True, eq=False)
class Attention:
    """H query heads over K key-value heads (K divides H) of size e."""

    query: Tensor
    """[H, e, d]"""
    key: Tensor
    """[K, e, d]"""
    value: Tensor
    """[K, e, d]"""
    output: Tensor
    """[H, e, d], from a head's values to the residual stream"""
    scale: float
    """On query · key, before the softmax."""
    query_bias: Tensor | None = None
    """[H, e]"""
    key_bias: Tensor | None = None
    """[K, e]"""
    value_bias: Tensor | None = None
    """[K, e]"""
    output_bias: Tensor | None = None
    """[d]"""
    query_norm: Norm = Norm()
    key_norm: Norm = Norm()
    rotation: Rotation | None = None
    window: int | None = None
    """How many positions back a token sees, itself among them; None: all."""

    @property
    def heads(self) -> int:
        return len(self.query)

    @property
    def groups(self) -> int:
        """Key-value heads."""
        return len(self.key)

    def queries(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        """Normed residual stream [..., L, d] at positions from `start` on → [..., H, L, e], turned.

        start: in place of the first position, those of all rows int64 [L].
        """
        return self.turned(self.query_norm(_by_head(x, self.query, self.query_bias)), start)

    def keys(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        """[..., L, d] → [..., K, L, e], turned"""
        return self.turned(self.key_norm(_by_head(x, self.key, self.key_bias)), start)

    def values(self, x: Tensor) -> Tensor:
        """[..., L, d] → [..., K, L, e]"""
        return _by_head(x, self.value, self.value_bias)

    def spread(self, grouped: Tensor) -> Tensor:
        """[..., K, L, e] → [..., H, L, e]: every query head with the keys or values that it reads."""
        return grouped if self.groups == self.heads else grouped.repeat_interleave(self.heads // self.groups, -3)

    def scores(self, queries: Tensor, keys: Tensor, start: int = 0) -> Tensor:
        """[..., H, Q, e], [..., H, L, e] → [..., H, Q, L] before the softmax, -inf where a query may not look.

        start: the position of the first query; keys stand at 0 to L - 1.
        """
        scores = queries @ keys.transpose(-1, -2) * self.scale
        return scores.masked_fill(self.hidden(queries.shape[-2], keys.shape[-2], start, scores.device), -torch.inf)

    def hidden(self, queries: int, keys: int, start: int, device: torch.device) -> Tensor:
        """bool [Q, L]: what a query may not look at."""
        back = torch.arange(start, start + queries, device=device)[:, None] - torch.arange(keys, device=device)
        return back < 0 if self.window is None else (back < 0) | (back >= self.window)

    def pattern(self, x: Tensor) -> Tensor:
        """Normed residual stream [..., L, d] → [..., H, L, L] probabilities"""
        return self.scores(self.queries(x), self.spread(self.keys(x))).softmax(-1)

    def mixed(self, x: Tensor) -> Tensor:
        """Normed residual stream [..., L, d] → what each head hands to its output map: [..., H, L, e]"""
        return self.pattern(x) @ self.spread(self.values(x))

    def written(self, mixed: Tensor) -> Tensor:
        """[..., H, L, e] → what each head adds to the residual stream [..., H, L, d], bias apart."""
        return mixed @ self.output

    def join(self, mixed: Tensor) -> Tensor:
        """[..., H, L, e] → what all heads and the bias add to the residual stream: [..., L, d]"""
        flat = mixed.transpose(-3, -2).flatten(-2)
        return linear(flat, self.output.flatten(0, 1).T, self.output_bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.join(self.mixed(x))

    def turned(self, x: Tensor, start: int | Tensor = 0) -> Tensor:
        """[..., L, e] turned by their positions, from `start` on; as it is where nothing is turned."""
        if self.rotation is None:
            return x
        places = start if isinstance(start, Tensor) else torch.arange(start, start + x.shape[-2], device=x.device)
        cosine, sine = self.rotation(places)
        size = cosine.shape[-1]
        own, rest = x[..., :size], x[..., size:]
        first, second = own.chunk(2, -1)
        turned = own * cosine + torch.cat([-second, first], -1) * sine
        return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


@dataclass(frozen=True, eq=False)
class MLP:
    """act(x·upᵀ)·downᵀ, or act(x·gateᵀ)·(x·upᵀ)·downᵀ where there is a gate."""

    up: Tensor
    """[m, d]"""
    down: Tensor
    """[d, m]"""
    activation: Activation
    gate: Tensor | None = None
    """[m, d]"""
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    gate_bias: Tensor | None = None

    def neurons(self, x: Tensor) -> Tensor:
        """Normed residual stream [..., d] → hidden units [..., m], what the output map reads."""
        risen = linear(x, self.up, self.up_bias)
        if self.gate is None:
            return self.activation(risen)
        return self.activation(linear(x, self.gate, self.gate_bias)) * risen

    def written(self, neurons: Tensor) -> Tensor:
        """[..., m] → what is added to the residual stream [..., d]"""
        return linear(neurons, self.down, self.down_bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.written(self.neurons(x))


@dataclass(frozen=True, eq=False)
class Block:
    attention: Attention
    attention_norm: Norm
    mlp: MLP | None
    """None in attention-only networks."""
    mlp_norm: Norm
    parallel: bool = False
    """Do attention and MLP both read what the block reads? Else the MLP reads attention's output too."""

    def __call__(self, x: Tensor) -> Tensor:
        attended = self.attention(self.attention_norm(x))
        if self.mlp is None:
            return x + attended
        middle = x + attended
        return middle + self.mlp(self.mlp_norm(x if self.parallel else middle))


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A decoder taken apart. Calling it gives the logits of its tokens."""

    embedding: Tensor
    """[V, d]"""
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembedding: Tensor
    """[V, d]"""
    positions: Tensor | None = None
    """[P, d], added to the embedding; None where positions are rotations."""
    unembedding_bias: Tensor | None = None
    """[V]"""

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        return int(self.embedding.shape[1])

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 [..., L] → the residual stream that the first block reads [..., L, d]"""
        x = self.embedding[tokens]
        return x if self.positions is None else x + self.positions[: tokens.shape[-1]]

    def unembed(self, x: Tensor, answers: Tensor | None = None) -> Tensor:
        """Residual stream after the last block [..., d] → logits [..., V], or of the tokens `answers` [a] alone."""
        weight, bias = self.unembedding, self.unembedding_bias
        if answers is not None:
            weight, bias = weight[answers], None if bias is None else bias[answers]
        return linear(self.final_norm(x), weight, bias)

    def __call__(self, tokens: Tensor) -> Tensor:
        """int64 [..., L] → [..., L, V]"""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)


def _by_head(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[..., L, d], [H, e, d] → [..., H, L, e]"""
    flat = linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
    by_head: Tensor = flat.unflatten(-1, weight.shape[:2]).transpose(-3, -2)
    return by_head
