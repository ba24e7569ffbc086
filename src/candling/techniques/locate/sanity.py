"""Sanity checks of an attribution: does the map depend on what the network has learned?

Question: is a technique's map still the same when the network's layers are drawn afresh, from the output down?
Source: cascading randomisation and permuted labels (Adebayo et al., 1810.03292, sections 3 and 4); structural
    similarity (Wang et al. 2004, eq. 13).
Inputs: network, inputs [n, ...], an attribution of them; perhaps a network like it that was trained on permuted
    labels. Similarities in −1..1, of absolute values.
Cost: the attribution's own, once for the network, `repeats` times for each layer, once for the permuted network.
Known failures: a map may pass and be wrong all the same; maps that are blank in the same places (a margin of
    zeros, times the input) are alike without the network: read `chance` and `to_input` beside; structural similarity
    is the milder judge, and on digits passes what is multiplied by the input; layers are drawn afresh in order of
    definition unless told otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from candling.access.sites import located
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.runs.seeds import derive, reproducible
from candling.techniques.locate.input_attribution import Attribution

LIMIT = 0.5
"""A map that is more alike than this with at most the lowest layer left has survived."""

Attribute = Callable[[nn.Module, Tensor], Attribution]
"""Network and inputs → attribution: an `Attributor` with target and settings bound by `functools.partial`."""

Similarity = Callable[[Tensor, Tensor], Tensor]
"""Two sets of maps [n, ...] → how alike those of each row are [n]"""


@dataclass(frozen=True, eq=False)
class Sanity:
    """How alike the maps are to the original ones as the network forgets."""

    technique: str
    layers: tuple[str, ...]
    """The output's first: after entry i, layers 0 to i have been drawn afresh"""
    values: Tensor
    """[repeats, layers] mean over inputs"""
    chance: float
    """The same with all layers drawn afresh, against the original maps of *other* inputs"""
    to_input: float
    """Of the original maps to the inputs themselves: what is near 1 shows the input"""
    permuted: float | None
    """To the maps of the network that was trained on permuted labels"""
    cost: Cost

    @property
    def similarity(self) -> Tensor:
        """[layers] mean over repeats"""
        return self.values.mean(0)

    @property
    def survives(self) -> bool:
        """Does the map outlive the network: all layers drawn afresh, or all but the lowest, or labels permuted?"""
        late = self.similarity[-2:] if len(self.layers) > 1 else self.similarity
        return float(late.max()) > LIMIT or (self.permuted is not None and self.permuted > LIMIT)


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """[n, ...] ×2 → [n] rank correlation of absolute values, ties by their mean rank; 0 where a map is constant."""
    ranks = [
        torch.from_numpy(rankdata(each.detach().abs().flatten(1).cpu().numpy(), axis=1)) for each in (one, other)
    ]
    a, b = (each - each.mean(1, keepdim=True) for each in ranks)
    norm = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(norm > 0, (a * b).sum(1) / norm.clamp(min=1e-12), 0.0)


def structural(one: Tensor, other: Tensor, *, window: int = 5) -> Tensor:
    """[n, C, H, W] ×2 → [n] mean structural similarity of absolute values, each map scaled to 0..1, over windows.

    Raises InputError for maps of another shape, or smaller than the window.
    """
    if one.ndim != 4 or one.shape != other.shape or min(one.shape[2:]) < window:
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise bad_input("maps", f"structural similarity needs [n, C, H, W] of {window} or more, not {shapes}")
    a, b = (each.detach().double().abs() for each in (one, other))
    a, b = (each / each.amax((1, 2, 3), keepdim=True).clamp(min=1e-300) for each in (a, b))

    def local(values: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(values, window, stride=1)

    mean_a, mean_b = local(a), local(b)
    spread = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    together = local(a * b) - mean_a * mean_b
    small, smaller = 0.03**2, 0.01**2
    alike = (2 * mean_a * mean_b + smaller) * (2 * together + small)
    return (alike / ((mean_a**2 + mean_b**2 + smaller) * (spread + small))).mean((1, 2, 3))


def check_sanity(
    network: nn.Module,
    x: Tensor,
    *,
    attribute: Attribute,
    similarity: Similarity = spearman,
    layers: Sequence[str] | None = None,
    permuted: nn.Module | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> Sanity:
    """Compares the maps of a network with those of copies that forget layer by layer. The network is left alone.

    x: [n, ...], n > 1. layers: from the input to the output; all parts with parameters of their own, as defined, if
    absent. Raises InputError for a site that is none, fewer than two inputs or no layer, and as the attribution does.
    """
    names = list(layers) if layers is not None else _layers(network)
    located(network, [name for name in names if name])
    if len(x) < 2 or not names or repeats < 1:
        raise bad_input(
            "sanity", f"{len(x)} inputs, {len(names)} layers, {repeats} repeats: needs 2, 1 and 1 at least"
        )
    original = attribute(network, x)
    cost, chances = original.cost, []
    values = torch.zeros((repeats, len(names)), dtype=torch.float64)
    for repeat in range(repeats):
        forgetful = copy.deepcopy(network)
        for depth, name in enumerate(reversed(names)):
            _draw_afresh(forgetful.get_submodule(name), derive(seed, repeat, name))
            found = attribute(forgetful, x)
            values[repeat, depth] = float(similarity(found.values, original.values).mean())
            cost += found.cost
        chances.append(float(similarity(found.values, original.values.roll(1, 0)).mean()))
    of_permuted = None
    if permuted is not None:
        found = attribute(permuted, x)
        of_permuted, cost = float(similarity(found.values, original.values).mean()), cost + found.cost
    to_input = float(similarity(original.values, x).mean())
    order = tuple(reversed(names))
    return Sanity(original.technique, order, values, mean(chances), to_input, of_permuted, cost)


def _layers(network: nn.Module) -> list[str]:
    """Parts with parameters of their own, as defined; "" is the network itself."""
    return [name for name, part in network.named_modules() if next(part.parameters(recurse=False), None) is not None]


def _draw_afresh(part: nn.Module, seed: int) -> None:
    """By the part's own way; where it has none its parameters are shuffled, so that they keep their distribution."""
    with reproducible(seed) as g, torch.no_grad():
        for way in ("reset_parameters", "_reset_parameters"):
            if callable(reset := getattr(part, way, None)):
                reset()
                return
        for parameter in part.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=g).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
