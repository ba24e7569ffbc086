"""A decoder as somebody may have written it: names of its own, RoPE, RMSNorm, grouped heads, one fused map.

`candling explain` takes it as `own_decoder.py:build`, with `LAYOUT` as its table.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

VOCABULARY, WIDTH, HEADS, GROUPS, SIZE, DEPTH = 109, 32, 4, 2, 8, 2

LAYOUT = {
    "blocks": "stack",
    "embedding": "words",
    "unembedding": "out",
    "final_norm": "last",
    "attention_norm": "before",
    "attention_output": "mix.merge",
    "fused": "mix.maps",
    "mlp_norm": "between",
    "up": "wide.rise",
    "gate": "wide.gate",
    "down": "wide.fall",
    "activation": "silu",
    "rotary_base": 500,
    "heads": HEADS,
    "groups": GROUPS,
    "longest": 64,
}


def turned(x: Tensor) -> Tensor:
    """[n, heads, L, SIZE]"""
    half = SIZE // 2
    rates = torch.tensor([500.0 ** (-2 * i / SIZE) for i in range(half)])
    angle = torch.arange(x.shape[2])[:, None] * rates
    first, second = x[..., :half], x[..., half:]
    cosine, sine = angle.cos().to(x), angle.sin().to(x)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Linear(WIDTH, (HEADS + 2 * GROUPS) * SIZE)
        self.merge = nn.Linear(HEADS * SIZE, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.maps(x).split([HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE], -1)
        q, k, v = (t.view(*t.shape[:2], -1, SIZE).transpose(1, 2) for t in (queries, keys, values))
        mixed = scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
        return self.merge(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.rise = nn.Linear(WIDTH, 48, bias=False), nn.Linear(WIDTH, 48, bias=False)
        self.fall = nn.Linear(48, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fall(silu(self.gate(x)) * self.rise(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.mix = nn.RMSNorm(WIDTH, eps=1e-5), Mix()
        self.between, self.wide = nn.RMSNorm(WIDTH, eps=1e-5), Wide()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.before(x))
        return x + self.wide(self.between(x))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.stack = nn.ModuleList(Block() for _ in range(DEPTH))
        self.last = nn.RMSNorm(WIDTH, eps=1e-5)
        self.out = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        for block in self.stack:
            x = block(x)
        return self.out(self.last(x))


def build() -> nn.Module:
    return Own()
