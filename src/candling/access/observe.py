"""What a network computes on the way: its logits and the outputs of chosen sites, from one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from candling.access.canonical import Tap
from candling.access.fits import ready
from candling.access.layout import Layout
from candling.access.passes import run
from candling.access.sites import is_canonical


@dataclass(frozen=True, eq=False)
class Observation:
    """The logits, exactly as the bare network gives them, and each site's output."""

    logits: Tensor
    activations: dict[str, Tensor]
    """Not copied: the network's own tensors. Never change them in place."""


def observe(
    module: nn.Module,
    inputs: Tensor,
    sites: Iterable[str],
    *,
    grad: bool = False,
    layout: Layout | None = None,
) -> Observation:
    """Runs `module` on `inputs` [n, ...] in eval mode, keeping the value at each site.

    sites: paths of submodules, of which the output is kept (`sites`), and in a decoder canonical names such as
    `blocks.3.attn.head_out` (`canonical.KINDS` has their shapes). layout: the table of a decoder that brings none.

    Costs one forward pass, or two where a later layer overwrites a site's output in place; the first time that
    canonical names are used with a network its table is checked, by four passes of 32 tokens. With `grad`
    the tensors belong to the graph, ready for a backward pass. Raises as `passes.run` does.
    torch's fused encoder layers give way to the plain ones under a hook, and may round otherwise.
    """
    names = dict.fromkeys(sites)
    kept: dict[str, tuple[Tensor, int]] = {}

    ready(module, names, layout)
    put_back = {name for name in names if grad and is_canonical(module, name, layout)}

    def keep(site: str, copied: bool) -> Tap:
        def tap(output: Tensor) -> Tensor | None:
            if site in put_back:  # what is derived has no part in the logits unless it is put in again
                kept[site] = output.clone(), -1
                return kept[site][0]
            kept[site] = (output.clone(), -1) if copied else (output, _version(output))
            return None

        return tap

    logits = run(module, inputs, {name: keep(name, False) for name in names}, grad=grad, layout=layout)
    stale = {name for name, (output, version) in kept.items() if _version(output) != version}
    if stale:
        taps = {name: keep(name, name in stale) for name in names}
        logits = run(module, inputs, taps, grad=grad, layout=layout)
    return Observation(logits, {name: kept[name][0] for name in names})


def _version(tensor: Tensor) -> int:
    """Counts writes to the tensor. torch forbids writing to inference tensors, which have no count."""
    return -1 if tensor.is_inference() else tensor._version
