"""Does a decoder's table of parts fit? Asked once of each network, before its canonical sites are used."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from candling.access.anatomy import Block
from candling.access.canonical import placed
from candling.access.dissect import TOLERANCE, dissect
from candling.access.layout import Layout
from candling.access.passes import run
from candling.access.sites import table_of
from candling.access.trace import Trace, trace
from candling.access.wording import bad_input

_TOKENS = 16

_known: weakref.WeakKeyDictionary[nn.Module, Layout] = weakref.WeakKeyDictionary()


def ready(module: nn.Module, sites: Iterable[str], layout: Layout | None = None) -> None:
    """Where one of the sites is canonical: the parts give the network's logits, and the sites what the parts give.

    Costs four passes of two prompts of 16 tokens, once a network. Raises InputError.
    """
    table = table_of(module, layout)
    if table is None or _known.get(module) == table or not any(placed(site) for site in sites):
        return
    _check(module, table)
    _known[module] = table


@torch.no_grad()
def _check(module: nn.Module, table: Layout) -> None:
    anatomy = dissect(module, table).anatomy
    count = _TOKENS if anatomy.positions is None else min(_TOKENS, len(anatomy.positions))
    tokens = torch.randint(len(anatomy.embedding), (2, count), generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(anatomy.embedding.device)
    truth = trace(anatomy, tokens)
    seen: dict[str, Tensor] = {}
    kinds = [kind for kind in _KINDS if table.up or not kind.startswith("mlp")]
    names = [f"blocks.{layer}.{kind}" for layer in range(anatomy.depth) for kind in kinds]
    run(module, tokens, {name: partial(_keep, seen, name) for name in names}, layout=table)
    for name in names:
        layer, kind = int(name.split(".")[1]), name.split(".", 2)[2]
        own, expected = seen[name], _KINDS[kind](truth, anatomy.blocks[layer], layer)
        attention = anatomy.blocks[layer].attention
        if kind == "attn.q":
            own = attention.turned(own) * attention.scale
        if kind == "attn.k":
            own = attention.turned(own)
        limit = TOLERANCE[own.dtype] * max(1.0, float(expected.abs().max()))
        if own.shape != expected.shape or not float((own - expected).abs().max()) <= limit:
            raise bad_input("layout", f"{name} is not what the network's parts give there; its table does not fit")


def _read_by_mlp(truth: Trace, block: Block, layer: int) -> Tensor:
    return truth.pre[layer] if block.parallel else truth.mid(layer)


_KINDS: Mapping[str, Callable[[Trace, Block, int], Tensor]] = {
    "resid_pre": lambda truth, block, layer: truth.pre[layer],
    "attn.norm": lambda truth, block, layer: block.attention_norm(truth.pre[layer]),
    "attn.q": lambda truth, block, layer: truth.queries[layer],
    "attn.k": lambda truth, block, layer: truth.keys[layer],
    "attn.v": lambda truth, block, layer: truth.values[layer],
    "attn.mixed": lambda truth, block, layer: truth.mixed[layer],
    "attn.out": lambda truth, block, layer: truth.attended[layer],
    "mlp.in": _read_by_mlp,
    "mlp.norm": lambda truth, block, layer: block.mlp_norm(_read_by_mlp(truth, block, layer)),
    "mlp.neurons": lambda truth, block, layer: truth.neurons[layer],
    "mlp.out": lambda truth, block, layer: truth.risen[layer],
    "resid_post": lambda truth, block, layer: truth.pre[layer + 1],
}
"""Sites, and what the parts give there; all others are made of these."""


def _keep(seen: dict[str, Tensor], name: str, value: Tensor) -> None:
    seen[name] = value.clone()
