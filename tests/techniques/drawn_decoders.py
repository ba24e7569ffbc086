"""Small decoders with weights drawn at random, written as anatomies, and pairs for them."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.access.pairs import Pairs
from candling.techniques.locate.contract import LogitDifference

VOCABULARY, LENGTH = 23, 8


class _Turn:
    """Rotations of two of a head's dimensions."""

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angle = positions[:, None] * torch.tensor([0.7, 0.7], dtype=torch.float64)
        return angle.cos(), angle.sin()


def decoder(seed: int = 0, *, layers: int = 2, heads: int = 4, groups: int = 2, width: int = 16) -> Anatomy:
    """Rotations, RMS norms, gated MLPs; a third layer is parallel and centred, and has biases."""
    g = torch.Generator().manual_seed(seed)
    size = width // heads

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=g, dtype=torch.float64)

    def norm(centred: bool) -> Norm:
        return Norm(1 + draw(width, scale=0.2), draw(width, scale=0.2) if centred else None, 1e-6, centred)

    blocks = []
    for layer in range(layers):
        odd = layer == 2
        attention = Attention(
            query=draw(heads, size, width, scale=0.5),
            key=draw(groups, size, width, scale=0.5),
            value=draw(groups, size, width, scale=0.3),
            output=draw(heads, size, width, scale=0.3),
            scale=size**-0.5,
            output_bias=draw(width, scale=0.3) if odd else None,
            value_bias=draw(groups, size, scale=0.3) if odd else None,
            rotation=None if odd else _Turn(),
        )
        up, down = draw(2 * width, width, scale=0.3), draw(width, 2 * width, scale=0.3)
        mlp = MLP(up, down, gelu, down_bias=draw(width)) if odd else MLP(up, down, silu, draw(2 * width, width))
        blocks.append(Block(attention, norm(odd), mlp, norm(odd), parallel=odd))
    return Anatomy(draw(VOCABULARY, width), tuple(blocks), norm(layers > 2), draw(VOCABULARY, width, scale=0.5))


def linear(seed: int = 0) -> Anatomy:
    """No norms, MLPs without a bend, queries of 0 and so flat patterns: a linear map of its embedding."""
    whole = decoder(seed)
    blocks = []
    for block in whole.blocks:
        assert block.mlp is not None
        mlp = MLP(block.mlp.up, block.mlp.down, lambda x: x)
        attention = replace(block.attention, query=torch.zeros_like(block.attention.query))
        blocks.append(Block(attention, Norm(), mlp, Norm()))
    return replace(whole, blocks=tuple(blocks), final_norm=Norm())


def prompts(seed: int = 0, n: int = 3) -> Pairs:
    """Pairs of unlike length that differ from their third token on."""
    g = torch.Generator().manual_seed(seed)
    clean, corrupt = torch.randint(VOCABULARY, (2, n, LENGTH), generator=g)
    corrupt[:, :2] = clean[:, :2]
    answer, wrong = torch.randint(VOCABULARY, (2, n), generator=g)
    return Pairs(clean, corrupt, answer, wrong, torch.randint(4, LENGTH, (n,), generator=g))


def difference(pairs: Pairs) -> LogitDifference:
    return LogitDifference(pairs.answer, pairs.wrong)
