"""Take a decoder apart by a table of where it keeps its parts, and check the parts against the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from candling.access.anatomy import MLP, Activation, Anatomy, Attention, Block, Norm, Rotation
from candling.access.layout import Layout
from candling.access.modes import undisturbed
from candling.access.wording import bad_input, listed, shown
from candling.errors import InputError

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Most that logits of parts and whole may differ, by dtype; times the largest logit, if above 1."""

CHECKED = (2, 16)
"""Rows and tokens on which parts and whole are compared."""

ACTIVATIONS: Mapping[str, Activation] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "silu": silu,
}
"""Those that a table may name where the network has no submodule for its own."""


@dataclass(frozen=True, eq=False)
class Dissected:
    anatomy: Anatomy
    difference: float
    """The largest difference between a logit of the parts and the whole network's, on tokens drawn at random."""


@torch.no_grad()
def dissect(decoder: nn.Module, layout: Layout | None = None) -> Dissected:
    """The decoder's parts, after they gave its logits.

    decoder: tokens int64 [n, L] → logits [n, L, V], in eval mode. layout: its family's own unless given. Raises
    InputError where there is no table for it, the table does not fit the network, or the logits differ by more
    than TOLERANCE.
    """
    layout, name = layout_of(decoder, layout), named(decoder)
    anatomy = anatomy_of(decoder, layout)
    rows, count = CHECKED
    count = count if anatomy.positions is None else min(count, len(anatomy.positions))
    tokens = torch.randint(len(anatomy.embedding), (rows, count), generator=torch.Generator().manual_seed(0))
    tokens = tokens.to(anatomy.embedding.device)
    try:
        with undisturbed(decoder):
            whole, parts = decoder(tokens), anatomy(tokens)
    except (RuntimeError, TypeError, IndexError, ValueError) as fault:
        raise _unfit(name, fault) from None
    if not isinstance(whole, Tensor) or whole.shape != parts.shape:
        gave = list(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise bad_input("layout", f"{name} gives {gave} for tokens {list(tokens.shape)}, not {list(parts.shape)}")
    difference = float((whole - parts).abs().max())
    limit = TOLERANCE[whole.dtype] * max(1.0, float(whole.abs().max()))
    if not difference <= limit:
        what = f"the parts of this {name} give logits that differ by {difference:.1e} from its own"
        raise bad_input("layout", f"{what} (at most {limit:.1e}); its table does not fit")
    return Dissected(anatomy, difference)


def layout_of(module: nn.Module, layout: Layout | None = None) -> Layout:
    """The one that is given, else the one that a `Decoder` brings. Raises InputError where there is none."""
    own = layout or getattr(module, "layout", None)
    if not isinstance(own, Layout):
        raise bad_input("layout", f"no table says where {named(module)} keeps its heads; give a Layout")
    return own


def named(module: nn.Module) -> str:
    """What an error calls a network."""
    return shown(getattr(getattr(module, "family", None), "name", type(module).__name__))


def anatomy_of(decoder: nn.Module, layout: Layout) -> Anatomy:
    """The parts by a table, not yet compared with the whole. Raises InputError where it does not fit."""
    try:
        return _anatomy(decoder, layout)
    except (AttributeError, RuntimeError, TypeError, ValueError, AssertionError) as fault:
        raise _unfit(named(decoder), fault) from None


def _unfit(name: str, fault: Exception) -> InputError:
    return bad_input("layout", f"the table of {name} does not fit the network: {shown(fault, 90)}")


def shape_of(decoder: nn.Module, layout: Layout) -> tuple[int, int]:
    """How many heads and key-value heads. Raises InputError where neither table nor network says."""
    config = next((part.config for part in decoder.modules() if hasattr(part, "config")), None)
    heads: Any = layout.heads or getattr(config, "num_attention_heads", 0)
    if not heads:
        raise bad_input("layout", f"the table of {named(decoder)} lacks heads, and the network does not say")
    groups: Any = layout.groups or (not layout.heads and getattr(config, "num_key_value_heads", None)) or heads
    if heads % groups:
        raise bad_input("layout", f"{groups} key-value heads do not divide {heads} heads")
    return int(heads), int(groups)


def _anatomy(decoder: nn.Module, layout: Layout) -> Anatomy:
    head = _map(decoder.get_submodule(layout.unembedding))
    shape, rotary = shape_of(decoder, layout), rotary_of(decoder, layout)
    blocks: Any = decoder.get_submodule(layout.blocks)
    return Anatomy(
        embedding=decoder.get_parameter(f"{layout.embedding}.weight"),
        blocks=tuple(block_of(block, layout, shape, rotary) for block in blocks),
        final_norm=norm_of(decoder, layout.final_norm),
        unembedding=head[0],
        unembedding_bias=head[1],
        positions=decoder.get_parameter(f"{layout.positions}.weight") if layout.positions else None,
    )


def rotary_of(decoder: nn.Module, layout: Layout) -> nn.Module | None:
    return decoder.get_submodule(layout.rotary) if layout.rotary else None


def block_of(block: nn.Module, layout: Layout, shape: tuple[int, int], rotary: nn.Module | None) -> Block:
    """One block's parts. Raises whatever a table that does not fit leads to."""
    attention = attention_of(block, layout, shape, rotary)
    return Block(
        attention=attention,
        attention_norm=norm_of(block, layout.attention_norm),
        mlp=_mlp(block, layout) if layout.up else None,
        mlp_norm=norm_of(block, layout.mlp_norm),
        parallel=bool(getattr(block, "use_parallel_residual", layout.parallel)),
    )


def attention_of(block: nn.Module, layout: Layout, shape: tuple[int, int], rotary: nn.Module | None) -> Attention:
    own = block.get_submodule(layout.attention) if layout.attention else block
    output, output_bias = _map(block.get_submodule(layout.attention_output))
    heads, size = shape[0], output.shape[1] // shape[0]
    query, key, value = _split(block, layout, *shape)
    scale: Any = getattr(own, "scaling", size**-0.5)
    rotation: Rotation | None = partial(_turned, layout.rotary_base, size) if layout.rotary_base else None
    return Attention(
        query=query[0],
        key=key[0],
        value=value[0],
        output=output.T.unflatten(0, (heads, size)),
        scale=float(scale),
        query_bias=query[1],
        key_bias=key[1],
        value_bias=value[1],
        output_bias=output_bias,
        query_norm=norm_of(block, layout.query_norm),
        key_norm=norm_of(block, layout.key_norm),
        rotation=rotation if rotary is None else partial(_rotation, rotary),
        window=_window(own) or layout.window or None,
    )


def _mlp(block: nn.Module, layout: Layout) -> MLP:
    up, up_bias = _map(block.get_submodule(layout.up))
    down, down_bias = _map(block.get_submodule(layout.down))
    gate, gate_bias = _map(block.get_submodule(layout.gate)) if layout.gate else (None, None)
    return MLP(up, down, _activation(block, layout.activation), gate, up_bias, down_bias, gate_bias)


def _activation(block: nn.Module, name: str) -> Activation:
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if not name:
        raise bad_input("layout", f"the table lacks activation: a path, or one of {listed(list(ACTIVATIONS))}")
    own: Any = block.get_submodule(name)
    return own  # type: ignore[no-any-return]


def _window(own: nn.Module) -> int | None:
    """A family either tells each attention its window or has one for all in its settings."""
    if hasattr(own, "sliding_window"):
        given: Any = own.sliding_window
    else:
        given = getattr(getattr(own, "config", None), "sliding_window", None)
    return None if given is None else int(given)


def _split(block: nn.Module, layout: Layout, heads: int, groups: int) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Query, key and value maps: weights [H or K, e, d] and biases [H or K, e]."""
    counts = (heads, groups, groups)
    if not layout.fused:
        given = zip((layout.query, layout.key, layout.value), counts, strict=True)
        return tuple(_headed(*_map(block.get_submodule(path)), count) for path, count in given)
    weight, bias = _map(block.get_submodule(layout.fused))
    weights = split_fused(weight, layout, heads, groups, 0)
    biases = (None,) * 3 if bias is None else split_fused(bias, layout, heads, groups, 0)
    return tuple(zip(weights, biases, strict=True))


def split_fused(fused: Tensor, layout: Layout, heads: int, groups: int, axis: int) -> tuple[Tensor, ...]:
    """What a fused map holds along an axis, as queries, keys and values, that axis being split in [H or K, e]."""
    if layout.by_head:
        whole: Tensor = fused.unflatten(axis, (heads, 3, -1))
        return whole.unbind(axis + 1 if axis >= 0 else axis - 1)
    counts = (heads, groups, groups)
    size = fused.shape[axis] // sum(counts)
    parts = fused.split([count * size for count in counts], axis)
    return tuple(part.unflatten(axis, (count, size)) for part, count in zip(parts, counts, strict=True))


def join_fused(parts: Sequence[Tensor], layout: Layout) -> Tensor:
    """Queries, keys and values [..., H or K, e] in the order in which the fused map gives them [..., (H + 2K)·e]"""
    if layout.by_head:
        return torch.stack(list(parts), -2).flatten(-3)
    return torch.cat([part.flatten(-2) for part in parts], -1)


def _headed(weight: Tensor, bias: Tensor | None, count: int) -> tuple[Tensor, Tensor | None]:
    return weight.unflatten(0, (count, -1)), None if bias is None else bias.unflatten(0, (count, -1))


def _map(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight [out, in] and bias of a linear map; GPT-2's maps keep theirs transposed."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T, bias


def norm_of(parent: nn.Module, path: str) -> Norm:
    """LayerNorm, or else RMSNorm; none where there is no path."""
    if not path:
        return Norm()
    module = parent.get_submodule(path)
    weight: Any = getattr(module, "weight", None)
    eps: Any = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if eps is None:  # as torch's own RMSNorm has it
        eps = torch.finfo(weight.dtype).eps
    return Norm(weight, getattr(module, "bias", None), float(eps), isinstance(module, nn.LayerNorm))


def _rotation(rotary: nn.Module, positions: Tensor) -> tuple[Tensor, Tensor]:
    """What the network's own module gives: it knows the settings' kinds of scaling."""
    like = next(rotary.buffers(), torch.zeros(1, device=positions.device))
    cosine, sine = rotary(like, positions[None])
    return cosine[0], sine[0]


def _turned(base: float, size: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine [L, e] as usual (2104.09864, equation 15, halves instead of neighbours)."""
    steps = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    angles = positions[:, None].float() * base**-steps
    whole = torch.cat([angles, angles], -1)
    return whole.cos(), whole.sin()
