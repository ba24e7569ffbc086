"""The places in a network where it can be observed and edited: the outputs of its submodules, by path."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn

from candling.access.wording import bad_input, listed, shown


def sites(module: nn.Module) -> list[str]:
    """The paths of all submodules in definition order; one that has two names is listed by its first."""
    return [name for name, _ in module.named_modules() if name]


def check(module: nn.Module, names: Iterable[str]) -> None:
    """Raises InputError for a name that is no site of `module`, with the nearest that are."""
    located(module, names)


def located(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The submodule at each site. Raises InputError as `check` does."""
    return {name: _at(module, name) for name in names}


def _at(module: nn.Module, name: str) -> nn.Module:
    try:
        if name:
            return module.get_submodule(name)
    except AttributeError:
        pass
    known = sites(module)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"nearest: {listed(near, width=90)}" if near else f"there are: {listed(known, width=90) or 'none'}"
    raise bad_input("site", f"no site {shown(name)}; {hint}") from None
