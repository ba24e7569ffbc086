"""Take a decoder apart by its family's table, and check the parts against the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm, Rotation
from candling.access.pretrained import Decoder
from candling.access.wording import bad_input

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Most that logits of parts and whole may differ, by dtype; times the largest logit, if above 1."""

CHECKED = (2, 16)
"""Rows and tokens on which parts and whole are compared."""


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its parts. Paths below `blocks` are relative to a block."""

    attention_norm: str
    mlp_norm: str
    attention_output: str
    up: str
    down: str
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    """One map for queries, keys and values, in place of the three."""
    by_head: bool = False
    """Does the fused map hold query, key and value of one head after another? Else all queries come first."""
    gate: str = ""
    activation: str = "mlp.act_fn"
    query_norm: str = ""
    key_norm: str = ""
    positions: str = ""
    rotary: str = ""


_LLAMA = Layout(
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    rotary="model.rotary_emb",
)

LAYOUTS: Mapping[str, Layout] = {
    "gpt2": Layout(
        attention_norm="ln_1",
        mlp_norm="ln_2",
        fused="attn.c_attn",
        attention_output="attn.c_proj",
        up="mlp.c_fc",
        down="mlp.c_proj",
        activation="mlp.act",
        positions="transformer.wpe",
    ),
    "gpt_neox": Layout(
        attention_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        fused="attention.query_key_value",
        by_head=True,
        attention_output="attention.dense",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        activation="mlp.act",
        rotary="gpt_neox.rotary_emb",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": Layout(
        **{**vars(_LLAMA), "query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"},
    ),
}


@dataclass(frozen=True, eq=False)
class Dissected:
    anatomy: Anatomy
    difference: float
    """The largest difference between a logit of the parts and the whole network's, on tokens drawn at random."""


@torch.no_grad()
def dissect(decoder: Decoder, layout: Layout | None = None) -> Dissected:
    """The decoder's parts, after they gave its logits.

    layout: the family's own unless given. Raises InputError where there is no table for the family, the
    table does not fit the network, or the logits differ by more than TOLERANCE.
    """
    layout = layout or LAYOUTS.get(decoder.family.name)
    if layout is None:
        raise bad_input("family", f"no table says where {decoder.family.name} keeps its heads; give a Layout")
    try:
        anatomy = _anatomy(decoder, layout)
    except (AttributeError, RuntimeError) as fault:
        raise bad_input("family", f"the table of {decoder.family.name} does not fit the network: {fault}") from None
    tokens = torch.randint(len(anatomy.embedding), CHECKED, generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(anatomy.embedding.device)
    whole, parts = decoder(tokens), anatomy(tokens)
    difference = float((whole - parts).abs().max())
    limit = TOLERANCE[whole.dtype] * max(1.0, float(whole.abs().max()))
    if not difference <= limit:
        what = f"the parts of this {decoder.family.name} give logits that differ by {difference:.1e} from its own"
        raise bad_input("family", f"{what} (at most {limit:.1e}); its table does not fit")
    return Dissected(anatomy, difference)


def _anatomy(decoder: Decoder, layout: Layout) -> Anatomy:
    family, config = decoder.family, decoder.get_submodule(decoder.family.base).config
    heads = int(config.num_attention_heads)  # type: ignore[union-attr, arg-type]
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    head = decoder.get_submodule(family.unembedding)
    rotation = partial(_rotation, decoder.get_submodule(layout.rotary)) if layout.rotary else None
    blocks: Any = decoder.get_submodule(family.blocks)
    return Anatomy(
        embedding=decoder.embedding,
        blocks=tuple(
            _block(block, layout, block.get_submodule(family.attention), (heads, groups), rotation)
            for block in blocks
        ),
        final_norm=_norm(decoder.get_submodule(family.final_norm)),
        unembedding=_map(head)[0],
        unembedding_bias=_map(head)[1],
        positions=decoder.get_parameter(f"{layout.positions}.weight") if layout.positions else None,
    )


def _block(
    block: nn.Module, layout: Layout, own: nn.Module, heads: tuple[int, int], rotation: Rotation | None
) -> Block:
    query, key, value = _split(block, layout, *heads)
    output, output_bias = _map(block.get_submodule(layout.attention_output))
    count, size = heads[0], output.shape[1] // heads[0]
    up, up_bias = _map(block.get_submodule(layout.up))
    down, down_bias = _map(block.get_submodule(layout.down))
    gate, gate_bias = _map(block.get_submodule(layout.gate)) if layout.gate else (None, None)
    activation: Any = block.get_submodule(layout.activation)
    return Block(
        attention=Attention(
            query=query[0],
            key=key[0],
            value=value[0],
            output=output.T.unflatten(0, (count, size)),
            scale=float(own.scaling),  # type: ignore[arg-type]
            query_bias=query[1],
            key_bias=key[1],
            value_bias=value[1],
            output_bias=output_bias,
            query_norm=_norm(block.get_submodule(layout.query_norm)) if layout.query_norm else Norm(),
            key_norm=_norm(block.get_submodule(layout.key_norm)) if layout.key_norm else Norm(),
            rotation=rotation,
            window=_window(own),
        ),
        attention_norm=_norm(block.get_submodule(layout.attention_norm)),
        mlp=MLP(up, down, activation, gate, up_bias, down_bias, gate_bias),
        mlp_norm=_norm(block.get_submodule(layout.mlp_norm)),
        parallel=bool(getattr(block, "use_parallel_residual", False)),
    )


def _window(own: nn.Module) -> int | None:
    """A family either tells each attention its window or has one for all in its settings."""
    given: Any = own.sliding_window if hasattr(own, "sliding_window") else getattr(own.config, "sliding_window", None)
    return None if given is None else int(given)


def _split(block: nn.Module, layout: Layout, heads: int, groups: int) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Query, key and value maps: weights [H or K, e, d] and biases [H or K, e]."""
    if not layout.fused:
        given = ((layout.query, heads), (layout.key, groups), (layout.value, groups))
        return tuple(_headed(*_map(block.get_submodule(path)), count) for path, count in given)
    weight, bias = _map(block.get_submodule(layout.fused))
    if layout.by_head:
        parts = weight.unflatten(0, (heads, 3, -1)).unbind(1)
        biases = (None,) * 3 if bias is None else bias.unflatten(0, (heads, 3, -1)).unbind(1)
        return tuple(zip(parts, biases, strict=True))
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return tuple(_headed(own, its, heads) for own, its in zip(weight.chunk(3), biases, strict=True))


def _headed(weight: Tensor, bias: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    return weight.unflatten(0, (count, -1)), None if bias is None else bias.unflatten(0, (count, -1))


def _map(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias of a linear map; GPT-2's maps keep theirs transposed."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T, bias


def _norm(module: nn.Module) -> Norm:
    weight: Any = module.weight
    centred = isinstance(module, nn.LayerNorm)
    eps: Any = module.eps if centred else module.variance_epsilon
    return Norm(weight, getattr(module, "bias", None), float(eps), centred)


def _rotation(rotary: Callable[..., tuple[Tensor, Tensor]], positions: Tensor) -> tuple[Tensor, Tensor]:
    """What the network's own module gives: it knows the settings' kinds of scaling."""
    weight = next(iter(rotary.buffers()))  # type: ignore[attr-defined]
    cosine, sine = rotary(weight, positions[None])
    return cosine[0], sine[0]
