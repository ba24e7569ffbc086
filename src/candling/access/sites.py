"""The places in a network where it can be observed and edited.

The outputs of its submodules, by path; in a decoder with a table of its parts the canonical names beside them
(`canonical.KINDS`), which come before a path of the same name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from torch import nn

from candling.access.canonical import KINDS, Hook, Place, Tap, hooks, names, placed
from candling.access.dissect import layout_of
from candling.access.layout import Layout
from candling.access.wording import bad_input, listed, shown


def sites(module: nn.Module) -> list[str]:
    """The paths of all submodules in definition order; one that has two names is listed by its first."""
    return [name for name, _ in module.named_modules() if name]


def canonical_sites(decoder: nn.Module, layout: Layout | None = None) -> list[str]:
    """The canonical names of a decoder, in the order of computation; `.3` behind one by head is its head 3.

    Raises InputError where no table says where it keeps its parts.
    """
    return names(decoder, layout_of(decoder, layout))


def table_of(module: nn.Module, layout: Layout | None = None) -> Layout | None:
    """The table by which canonical names are read: the one that is given, else the decoder's own, if any."""
    own = layout or getattr(module, "layout", None)
    return own if isinstance(own, Layout) else None


def is_canonical(module: nn.Module, name: str, layout: Layout | None = None) -> bool:
    return placed(name) is not None and table_of(module, layout) is not None


def check(module: nn.Module, names: Iterable[str], layout: Layout | None = None) -> None:
    """Raises InputError for a name that is no site of `module`, with the nearest that are."""
    hooks_of(module, dict.fromkeys(names, _nothing), layout)


def located(module: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The submodule at each path. Raises InputError as `check` does."""
    return {name: _at(module, name, None) for name in paths}


def hooks_of(module: nn.Module, taps: Mapping[str, Tap], layout: Layout | None = None) -> list[Hook]:
    """What to hang where, in this order: paths, then canonical sites in the order in which they are computed.

    Raises InputError as `check` does.
    """
    table = table_of(module, layout)
    own: list[Hook] = []
    canonical: list[tuple[int, Place, Tap]] = []
    for name, tap in taps.items():
        place = placed(name) if table is not None else None
        if place is None:
            _at(module, name, table)
            own.append(Hook(name, False, tap))
        else:
            canonical.append((_ORDER[place.kind], place, tap))
    for _, place, tap in sorted(canonical, key=lambda item: item[0]):
        assert table is not None
        own += hooks(module, table, place, tap)
    return own


_ORDER = {kind: number for number, kind in enumerate(KINDS)}


def _nothing(_: object) -> None:
    """The tap of somebody who only asks whether a site is there."""


def _at(module: nn.Module, name: str, table: Layout | None) -> nn.Module:
    try:
        if name:
            return module.get_submodule(name)
    except AttributeError:
        pass
    known = [*sites(module), *(names(module, table) if table is not None else [])]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"nearest: {listed(near, width=90)}" if near else f"there are: {listed(known, width=90) or 'none'}"
    raise bad_input("site", f"no site {shown(name)}; {hint}") from None
