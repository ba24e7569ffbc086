"""One forward pass with functions at chosen sites; the network comes out of it as it went in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from candling.access.sites import located
from candling.access.wording import bad_input, shown
from candling.errors import InputError

Tap = Callable[[Tensor], Tensor | None]
"""Receives a site's output; what it returns, if anything, takes its place."""


@contextmanager
def undisturbed(module: nn.Module, *, grad: bool = False) -> Iterator[None]:
    """Eval mode for every part, with gradients only on request; modes are restored whatever happens."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            yield
    finally:
        for part in training:
            part.training = True


def run(module: nn.Module, inputs: Tensor, taps: Mapping[str, Tap], *, grad: bool = False) -> Tensor:
    """The network's output for `inputs`, with each tap at its site's output.

    Where an output is a tuple (a recurrent layer's), its first tensor counts. Raises InputError for an
    unknown site, and for one that runs twice or not at all in a pass. What the network or a tap raises
    comes through; hooks, modes, gradients and weights are as before in every case.
    """
    fired = dict.fromkeys(taps, 0)
    handles = []
    try:
        for site, part in located(module, taps).items():
            handles.append(part.register_forward_hook(_hook(site, taps[site], fired)))
        with undisturbed(module, grad=grad):
            output = module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for site, count in fired.items():
        if count == 0:
            raise bad_input("site", f"{shown(site)} never runs in a pass; choose another site")
        if count > 1:  # the network caught what the hook raised
            raise _twice(site)
    return output if isinstance(output, Tensor) else _first(output, "the network")[1]


def _hook(site: str, tap: Tap, fired: dict[str, int]) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(part: nn.Module, args: Any, output: Any) -> Any:
        fired[site] += 1
        if fired[site] > 1:
            raise _twice(site)
        if isinstance(output, Tensor):
            return tap(output)
        place, tensor = _first(output, shown(site))
        new = tap(tensor)
        if new is None:
            return None
        items = (*output[:place], new, *output[place + 1 :])
        return output._make(items) if hasattr(output, "_make") else type(output)(items)

    return hook


def _first(output: Any, what: str) -> tuple[int, Tensor]:
    """Place and value of the first tensor in a tuple or list."""
    if isinstance(output, tuple | list):
        for place, item in enumerate(output):
            if isinstance(item, Tensor):
                return place, item
    raise bad_input("site", f"{what} gives {type(output).__name__} without a tensor")


def _twice(site: str) -> InputError:
    return bad_input("site", f"{shown(site)} runs more than once in a pass; choose a site that runs once")
