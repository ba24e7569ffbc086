"""One forward pass with functions at chosen sites; the network comes out of it as it went in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from candling.access.canonical import Hook, Tap
from candling.access.layout import Layout
from candling.access.modes import undisturbed
from candling.access.sites import hooks_of
from candling.access.wording import bad_input, shown
from candling.errors import InputError


def run(
    module: nn.Module,
    inputs: Tensor,
    taps: Mapping[str, Tap],
    *,
    grad: bool = False,
    layout: Layout | None = None,
) -> Tensor:
    """The network's output for `inputs`, with each tap at its site.

    Where an output is a tuple (a recurrent layer's), its first tensor counts. Raises InputError for an
    unknown site, and for one that runs twice or not at all in a pass. What the network or a tap raises
    comes through; hooks, modes, gradients and weights are as before in every case.
    """
    fired = dict.fromkeys(taps, 0)
    handles = []
    try:
        counted = {site: partial(_counted, site, fired, tap) for site, tap in taps.items()}
        for hook in hooks_of(module, counted, layout):
            part = module.get_submodule(hook.path)
            if hook.before:
                handles.append(part.register_forward_pre_hook(partial(_before, hook), with_kwargs=True))
            else:
                handles.append(part.register_forward_hook(partial(_after, hook)))
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


def _counted(site: str, fired: dict[str, int], tap: Tap, value: Tensor) -> Tensor | None:
    fired[site] += 1
    if fired[site] > 1:
        raise _twice(site)
    return tap(value)


def _after(hook: Hook, part: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, Tensor):
        return hook.tap(output)
    place, tensor = _first(output, shown(hook.path))
    new = hook.tap(tensor)
    if new is None:
        return None
    items = (*output[:place], new, *output[place + 1 :])
    return output._make(items) if hasattr(output, "_make") else type(output)(items)


def _before(hook: Hook, part: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """The first tensor that the part is called with, in order or by name."""
    order = next((place for place, each in enumerate(args) if isinstance(each, Tensor)), None)
    name = next((name for name, each in named.items() if isinstance(each, Tensor)), None)
    if order is None and name is None:
        raise bad_input("site", f"{shown(hook.path)} is called without a tensor")
    new = hook.tap(args[order] if order is not None else named[str(name)])
    if new is None:
        return None
    if order is None:
        return args, {**named, str(name): new}
    return (*args[:order], new, *args[order + 1 :]), named


def _first(output: Any, what: str) -> tuple[int, Tensor]:
    """Place and value of the first tensor in a tuple or list."""
    if isinstance(output, tuple | list):
        for place, item in enumerate(output):
            if isinstance(item, Tensor):
                return place, item
    raise bad_input("site", f"{what} gives {type(output).__name__} without a tensor")


def _twice(site: str) -> InputError:
    return bad_input("site", f"{shown(site)} runs more than once in a pass; choose a site that runs once")
