"""Two layers of attention alone that learn induction in seconds, by the way that theory says: previous-token heads
whose output is read by the keys of induction heads (Elhage et al. 2021; Olsson et al., 2209.11895).

Positions are rotations of queries and keys, so none is ever written to the residual stream: what stood before a token
can only come from a head that looked there. (Networks with learned positions also find another way, by queries.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from candling.access.anatomy import Anatomy, Attention, Block, Norm, Rotation
from candling.organisms.networks.induction import VOCABULARY, predictable, repeated
from candling.runs.seeds import reproducible

WIDTH, HEADS, SIZE, TURNED = 48, 4, 16, 8
"""Of the residual stream; heads of each layer; dimensions of a head, and how many of them are rotated."""
_BATCH, _RATE, _WARM, _SLOWEST = 32, 1e-2, 40, 100.0


def train_attention_only(seed: int, *, steps: int = 240) -> Anatomy:
    """Trained to continue what is repeated, with periods drawn anew for each row; steps = 0: as it starts.

    No norms, no MLPs. The same for one seed; leaves the global generator as it was.
    """
    with reproducible(seed) as generator:
        anatomy = _drawn(generator)
        weights = [
            anatomy.embedding,
            anatomy.unembedding,
            *(w for b in anatomy.blocks for w in _weights(b.attention)),
        ]
        optimiser = torch.optim.AdamW([w.requires_grad_() for w in weights], _RATE, betas=(0.9, 0.98))
        for step in range(steps):
            tokens, periods = repeated(_BATCH, generator)
            for group in optimiser.param_groups:
                group["lr"] = _RATE * min(1.0, (step + 1) / _WARM) * (1 - step / steps)
            optimiser.zero_grad()
            chosen = predictable(tokens, periods)
            cross_entropy(anatomy(tokens)[:, :-1][chosen], tokens[:, 1:][chosen]).backward()
            clip_grad_norm_(weights, 1.0)
            optimiser.step()
    for weight in weights:
        weight.requires_grad_(False)
    return anatomy


def _drawn(generator: torch.Generator) -> Anatomy:
    def some(*shape: int, fan: int) -> Tensor:
        return torch.randn(shape, generator=generator) / math.sqrt(fan)

    def block() -> Block:
        query, key, value = (some(HEADS, SIZE, WIDTH, fan=WIDTH) for _ in range(3))
        attention = Attention(
            query,
            key,
            value,
            some(HEADS, SIZE, WIDTH, fan=HEADS * SIZE),
            SIZE**-0.5,
            query_bias=some(HEADS, SIZE, fan=1),
            key_bias=some(HEADS, SIZE, fan=1),
            rotation=_turns(),
        )
        return Block(attention, Norm(), None, Norm())

    embedding, unembedding = some(VOCABULARY, WIDTH, fan=1), some(VOCABULARY, WIDTH, fan=WIDTH)
    return Anatomy(embedding, (block(), block()), Norm(), unembedding)


def _turns() -> Rotation:
    rates = _SLOWEST ** (-torch.arange(0, TURNED, 2) / TURNED)

    def turns(places: Tensor) -> tuple[Tensor, Tensor]:
        angles = (places[:, None] * rates).repeat(1, 2)
        return angles.cos(), angles.sin()

    return turns


def _weights(attention: Attention) -> list[Tensor]:
    assert attention.query_bias is not None
    assert attention.key_bias is not None
    maps = [attention.query, attention.key, attention.value, attention.output]
    return [*maps, attention.query_bias, attention.key_bias]


@torch.no_grad()
def looks_back(anatomy: Anatomy, tokens: Tensor, periods: Tensor) -> tuple[Tensor, Tensor]:
    """[layers, heads] twice: mean attention to the token before, and to the one after the token's last occurrence.

    tokens, periods: as `repeated` gives them; only tokens that stood before ask. A head is a previous-token or an
    induction head by where it looks; no weight is read.
    """
    queries = predictable(tokens, periods)
    rows, places = torch.nonzero(queries, as_tuple=True)
    before, after = [], []
    x = anatomy.embed(tokens)
    for block in anatomy.blocks:
        pattern = block.attention.pattern(block.attention_norm(x))
        before.append(pattern[rows, :, places, places - 1].mean(0))
        after.append(pattern[rows, :, places, places - periods[rows] + 1].mean(0))
        x = block(x)
    return torch.stack(before), torch.stack(after)
