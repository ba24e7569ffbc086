"""What a network computes on the way: its logits and the outputs of chosen sites, from one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from candling.access.passes import Tap, run


@dataclass(frozen=True, eq=False)
class Observation:
    """The logits, exactly as the bare network gives them, and each site's output."""

    logits: Tensor
    activations: dict[str, Tensor]
    """Not copied: the network's own tensors. Never change them in place."""


def observe(module: nn.Module, inputs: Tensor, sites: Iterable[str], *, grad: bool = False) -> Observation:
    """Runs `module` on `inputs` [n, ...] in eval mode, keeping the output of each site (see `sites`).

    Costs one forward pass, or two where a later layer overwrites a site's output in place. With `grad`
    the tensors belong to the graph, ready for a backward pass. Raises as `passes.run` does.
    torch's fused encoder layers give way to the plain ones under a hook, and may round otherwise.
    """
    names = dict.fromkeys(sites)
    kept: dict[str, tuple[Tensor, int]] = {}

    def keep(site: str, copied: bool) -> Tap:
        def tap(output: Tensor) -> None:
            kept[site] = (output.clone(), -1) if copied else (output, _version(output))

        return tap

    logits = run(module, inputs, {name: keep(name, False) for name in names}, grad=grad)
    stale = {name for name, (output, version) in kept.items() if _version(output) != version}
    if stale:
        logits = run(module, inputs, {name: keep(name, name in stale) for name in names}, grad=grad)
    return Observation(logits, {name: kept[name][0] for name in names})


def _version(tensor: Tensor) -> int:
    """Counts writes to the tensor. torch forbids writing to inference tensors, which have no count."""
    return -1 if tensor.is_inference() else tensor._version
