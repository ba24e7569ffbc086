"""Many fine-tunes in the memory of one: LoRA adapters over a frozen decoder that all of them share.

A view is a `Decoder` with modules of its own over the very tensors of its base, so that hooks, gradients and
passes of one view cannot be seen by another, or by the base.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from candling.access.adapter import PREFIX, A, B, adaptable
from candling.access.architecture import Architecture
from candling.access.checkpoint import fill, read_weights
from candling.access.pretrained import Decoder
from candling.access.wording import bad_input, listed, shown
from candling.errors import InputError

RANK = 8
ALPHA = 16.0
"""An adapter of rank r changes a weight by (ALPHA / r)·B·A; nothing but r has to be known to read one."""

_NAME = "default"  # peft's own

_shared: dict[tuple[Path, str], Decoder] = {}


def attach(base: Decoder, rank: int = RANK) -> Decoder:
    """A view with a fresh adapter on every linear map of the blocks: computes what `base` does until it is trained.

    Only the adapter's factors (float32) ask for gradients. torch's global generator decides them. Raises
    InputError where peft is not installed.
    """
    inject, config = _peft()
    shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    view: Decoder = copy.deepcopy(base, shared)
    paths = adapted_maps(view)
    conv = any(not isinstance(view.get_submodule(path), nn.Linear) for path in paths)
    inject(config(r=rank, lora_alpha=ALPHA, target_modules=paths, fan_in_fan_out=conv), view)
    for factor in _factors(view).values():
        factor.data = factor.data.float()
    return view


def adapted_maps(decoder: Decoder) -> list[str]:
    """The module paths of all linear maps in the blocks."""
    blocks = decoder.family.blocks
    return [f"{blocks}.{path}" for path, part in decoder.get_submodule(blocks).named_modules() if adaptable(part)]


def adapter_state(view: nn.Module) -> dict[str, Tensor]:
    """The factors of a view's adapter, by the names that peft gives them in a file: A [r, in], B [out, r]."""
    return {name: factor.detach().cpu().clone() for name, factor in _factors(view).items()}


def is_adapter(state: Mapping[str, Tensor]) -> bool:
    """Whether a state is an adapter's rather than a whole network's."""
    return bool(state) and all(name.startswith(PREFIX) for name in state)


def adapted(base: Decoder, state: Mapping[str, Tensor]) -> Decoder:
    """A frozen view of `base` with the adapter `state`, of any rank. Raises InputError where it does not fit."""
    if not state:
        raise bad_input("adapter", "the adapter holds nothing")
    view = attach(base, _rank(state))
    factors = _factors(view)
    wrong = [f"missing {shown(name)}" for name in factors if name not in state]
    for name, value in state.items():
        if name not in factors:
            wrong.append(f"extra {shown(name)}")
        elif value.shape != factors[name].shape:
            wrong.append(f"{shown(name)} is {list(value.shape)} not {list(factors[name].shape)}")
    if wrong:
        raise bad_input("adapter", f"the reference differs in {len(wrong):,}: {listed(wrong, width=135)}")
    for name, factor in factors.items():
        factor.data.copy_(state[name])
    return view.eval().requires_grad_(False)


def whole(network: nn.Module) -> nn.Module:
    """A copy with tensors of its own; a view's adapter is merged into them."""
    network = copy.deepcopy(network)
    for path, layer in list(network.named_modules()):
        if hasattr(layer, "get_base_layer"):
            layer.merge()
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, layer.get_base_layer())
    return network


def is_view(network: nn.Module) -> bool:
    """Whether an adapter is at work in it."""
    return any(hasattr(layer, "get_base_layer") for layer in network.modules())


def mean_adapter(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The adapter whose change of each weight is the mean of theirs, exactly: factors side by side.

    Rank n·r, and its scale ALPHA / (n·r) is 1/n of theirs. The mean of the factors would be another network.
    Raises ValueError where the ranks differ.
    """
    if len({_rank(state) for state in states}) != 1:
        raise ValueError("a mean is of adapters of one rank")
    return {
        name: torch.cat([state[name] for state in states], 0 if name.endswith(A) else 1).contiguous()
        for name in states[0]
    }


def adapter_values(decoder: Decoder, rank: int = RANK) -> int:
    """How many numbers one adapter holds."""
    sizes = [decoder.get_parameter(f"{path}.weight").shape for path in adapted_maps(decoder)]
    return sum(rank * sum(shape) for shape in sizes)


def shared_base(architecture: Architecture, weights: Path, device: str) -> Decoder:
    """The decoder whose weights lie at `weights`: read once a process, and frozen. The last one is kept."""
    key = weights, device
    if key not in _shared:
        _shared.clear()
        network = architecture()
        fill(network, read_weights(weights))
        assert isinstance(network, Decoder)
        _shared[key] = network.eval().requires_grad_(False).to(device)
    return _shared[key]


def share(decoder: Decoder, weights: Path, device: str) -> None:
    """Give `decoder`, which is frozen and holds what lies at `weights`, so that it is not read a second time."""
    _shared.clear()
    _shared[weights, device] = decoder


def forget() -> None:
    """Let go of the decoder that is kept."""
    _shared.clear()


def check_installed() -> None:
    """Raises InputError where peft is not installed."""
    _peft()


def _peft() -> tuple[type, type]:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        what = "controls as adapters need peft: pip install 'candling[lora]', or give --controls-as full"
        raise InputError("lora", what) from None
    return inject_adapter_in_model, LoraConfig  # type: ignore[return-value]


def _factors(view: nn.Module) -> dict[str, nn.Parameter]:
    """By their names in a file."""
    found = {}
    for name, parameter in view.named_parameters():
        for end in (A, B):
            inner = end.replace(".weight", f".{_NAME}.weight")
            if name.endswith(inner):
                found[f"{PREFIX}{name.removesuffix(inner)}{end}"] = parameter
    return found


def _rank(state: Mapping[str, Tensor]) -> int:
    """Raises InputError where the factors have none."""
    ranks = {value.shape[0] for name, value in state.items() if name.endswith(A) and value.ndim == 2}
    if len(ranks) != 1 or 0 in ranks:
        raise bad_input("adapter", f"its factors have ranks {sorted(ranks)}, not one")
    return int(ranks.pop())
