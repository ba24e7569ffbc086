"""Kinds of parts that a sweep patches: where each joins the residual stream, and what the stream becomes there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.trace import Trace
from candling.access.wording import bad_input

PRE, MID, POST = "pre", "mid", "post"
"""Before a block's attention, between attention and MLP, after the MLP."""

Stream = Callable[[Anatomy, Trace, Trace, int, slice], Tensor]
"""Own record, record of the values put in, layer, units → the stream if one unit alone is patched [units, L, d]"""


@dataclass(frozen=True, eq=False)
class Part:
    """One kind of part. A layer has several units of it, or one."""

    name: str
    """The site, `blocks.L.` left out."""
    unit: str
    """What its units are called; empty where a layer has one."""
    place: str
    """PRE, MID or POST."""
    units: Callable[[Anatomy, int], list[str]]
    """Labels of a layer's units."""
    stream: Stream


def _one(anatomy: Anatomy, layer: int) -> list[str]:
    return [""]


def _mid_alone(anatomy: Anatomy, layer: int) -> list[str]:
    if anatomy.blocks[layer].parallel:
        raise bad_input("part", "resid_mid: attention and MLP run side by side, nothing lies between; try resid_pre")
    return [""]


def _mlp_alone(anatomy: Anatomy, layer: int) -> list[str]:
    return [] if anatomy.blocks[layer].mlp is None else [""]


def _heads(anatomy: Anatomy, layer: int) -> list[str]:
    return [str(head) for head in range(anatomy.blocks[layer].attention.heads)]


def _head_stream(anatomy: Anatomy, own: Trace, given: Trace, layer: int, units: slice) -> Tensor:
    change = given.mixed[layer][units] - own.mixed[layer][units]
    return own.mid(layer) + change @ anatomy.blocks[layer].attention.output[units]


resid_pre = Part("resid_pre", "", PRE, _one, lambda anatomy, own, given, layer, units: given.pre[layer][None])
"""The residual stream that a block reads."""
resid_mid = Part("resid_mid", "", MID, _mid_alone, lambda anatomy, own, given, layer, units: given.mid(layer)[None])
"""Between attention and MLP; InputError where they run side by side."""
resid_post = Part("resid_post", "", POST, _one, lambda anatomy, own, given, layer, units: given.pre[layer + 1][None])
"""What a block hands on."""
heads = Part("attn.head_out", "head", MID, _heads, _head_stream)
"""What each head adds; biases apart."""
attention = Part(
    "attn.out",
    "",
    MID,
    _one,
    lambda anatomy, own, given, layer, units: (own.pre[layer] + given.attended[layer])[None],
)
"""What all heads and the bias add."""
mlp = Part(
    "mlp.out",
    "",
    POST,
    _mlp_alone,
    lambda anatomy, own, given, layer, units: (own.mid(layer) + given.risen[layer])[None],
)
"""What the MLP adds."""


def neurons(chosen: Sequence[Sequence[int]]) -> Part:
    """These hidden units of each layer's MLP, each by itself. An empty list where a layer has none to patch.

    Using the part raises InputError for an index that a layer lacks, or where layers are too few or too many.
    """

    def units(anatomy: Anatomy, layer: int) -> list[str]:
        if len(chosen) != anatomy.depth:
            raise bad_input(
                "neurons", f"lists for {len(chosen)} layers, the network has {anatomy.depth}; give one each"
            )
        block_mlp = anatomy.blocks[layer].mlp
        count = 0 if block_mlp is None else len(block_mlp.up)
        wrong = [unit for unit in chosen[layer] if not 0 <= unit < count]
        if wrong:
            raise bad_input("neurons", f"layer {layer} has no neuron {wrong[0]}; give indices below {count}")
        return [str(unit) for unit in chosen[layer]]

    def stream(anatomy: Anatomy, own: Trace, given: Trace, layer: int, part: slice) -> Tensor:
        block_mlp = anatomy.blocks[layer].mlp
        columns = torch.tensor(list(chosen[layer][part]), device=own.pre[0].device)
        assert block_mlp is not None
        change = (given.neurons[layer] - own.neurons[layer])[:, columns].T
        return own.pre[layer + 1] + change[..., None] * block_mlp.down.T[columns][:, None]

    return Part("mlp.neurons", "neuron", POST, units, stream)
