"""Which inner sites of any network to look at, where nobody names them."""

from __future__ import annotations

from torch import Tensor, nn

from candling.access.observe import observe
from candling.access.sites import sites
from candling.errors import InputError


def hidden_sites(network: nn.Module, x: Tensor, most: int) -> list[str]:
    """At most so many modules without children, in order, spread over the depth up to the last before the output.

    x: inputs [n, ...], n > 1. Modules that never run, run twice or have no units are passed over.
    """
    modules = dict(network.named_modules())
    leaves = [name for name in sites(network) if not any(modules[name].children())]
    kept = [name for name in leaves if _observable(network, x[:2], name)][:-1]
    step = max(1, -(-len(kept) // most))
    return kept[::-1][::step][::-1]


def early_sites(network: nn.Module, x: Tensor, most: int) -> list[str]:
    """The same from the first three quarters of the depth, where inputs are still told apart by what they hold."""
    kept = hidden_sites(network, x, len(list(network.modules())))
    kept = kept[: max(1, round(0.75 * len(kept)))]
    step = max(1, -(-len(kept) // most))
    return kept[::-1][::step][::-1]


def _observable(network: nn.Module, x: Tensor, site: str) -> bool:
    """A module that is used once and has units: a shared one, or one that never runs, is passed over."""
    try:
        return observe(network, x, [site]).activations[site].ndim >= 2
    except InputError:
        return False
