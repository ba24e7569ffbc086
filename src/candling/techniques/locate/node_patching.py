"""Node patching in any network: which units, channels or positions carry what tells two inputs apart?

Question: what does the metric do when one part of a site takes the value that it has in the other run?
Source: activation patching (Heimersheim and Nanda, 2404.15255; Zhang and Nanda, 2309.16042); attribution patching
    (Nanda 2023; Kramár et al., 2403.00745, eq. 4), the first order of the same: (other − own)·gradient.
Inputs: network [n, ...] → logits [n, ...]; clean and corrupt inputs [n, ...], row for row, floats or tokens; sites by
    module path, whose outputs have the rows first; a metric, logits → [n]. A part is one place along the dimensions
    that `axes` names. Scores in units of the metric.
Cost: exact: 2n forward passes, and n for each part. Attribution: 3n forward and n backward passes for all sites.
Known failures: noising misses parts that stand in for each other (OR), denoising parts that need each other (AND);
    zero and the mean may be values that no input gives; attribution is blind where the metric is flat (a saturated
    softmax, a ReLU that is off); a recurrent layer's first output alone is patched, not the state that it hands on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from candling.access import Observation, intervene, observe
from candling.access.wording import bad_input, shown
from candling.evidence.measurement import Cost
from candling.techniques.locate.contract import Axis, Metric, Scores

_ROWS = 1024  # in a pass, unless the inputs alone are more

Replacement = Callable[[Tensor], Tensor]
"""A site's output in the other run [n, ...] → what is put in its place, of the same shape."""

UNITS: Mapping[str, int] = {"unit": 1}
"""Dimension 1 of a site's output: a channel of a convolution, a unit of a linear layer."""


def resample(other: Tensor) -> Tensor:
    """Each row takes its own partner's value."""
    return other


def mean(other: Tensor) -> Tensor:
    """Each row takes the other run's mean over rows."""
    return other.mean(0, keepdim=True).expand_as(other)


def zero(other: Tensor) -> Tensor:
    """Nothing is left of the part."""
    return torch.zeros_like(other)


def patch_nodes(
    network: nn.Module,
    clean: Tensor,
    *,
    corrupt: Tensor,
    sites: Sequence[str],
    metric: Metric,
    axes: Mapping[str, int] = UNITS,
    replacement: Replacement = resample,
    denoising: bool = False,
) -> Scores:
    """The exact effect of every part alone. Axes: site, then those of `axes` (a name → a dimension of the output).

    A part spans all places along the dimensions that `axes` leaves out, so {"unit": 1} patches a channel everywhere;
    {"position": 1, "unit": 2} takes a recurrent layer's output apart. Raises InputError for sites as
    `observe` does, for an axis that an output lacks, and where the inputs do not pair.
    """
    both = _both(network, clean, corrupt, sites, denoising)
    own_inputs, own = both[denoising]
    table = _Table(own.activations, axes)
    base = _mean(metric(own.logits))
    for site in table.sites:
        new = replacement(both[not denoising][1].activations[site])
        parts = list(table.parts(site))
        together = max(1, _ROWS // len(clean))
        for start in range(0, len(parts), together):
            group = parts[start : start + together]
            edit = _patch(new, [table.place(site, part) for part in group])
            repeated = own_inputs.repeat(len(group), *[1] * (own_inputs.ndim - 1))
            logits = intervene(network, repeated, {site: edit}).unflatten(0, (len(group), len(clean)))
            for part, each in zip(group, logits, strict=True):
                table.put(site, part, _mean(metric(each)) - base)
    passes = len(clean) * (2 + table.count)
    return _scores("activation patching", table, both, metric, Cost(forward=passes, backward=0), denoising)


def attribute_nodes(
    network: nn.Module,
    clean: Tensor,
    *,
    corrupt: Tensor,
    sites: Sequence[str],
    metric: Metric,
    axes: Mapping[str, int] = UNITS,
    replacement: Replacement = resample,
    denoising: bool = False,
) -> Scores:
    """What `patch_nodes` measures, to first order, for all parts from one backward pass. Raises as it does."""
    both = _both(network, clean, corrupt, sites, denoising)
    own_inputs, own = both[denoising]
    table = _Table(own.activations, axes)
    # Adding nothing at a site gives its gradient for tokens and frozen weights alike.
    nothing = {site: torch.zeros_like(own.activations[site]).requires_grad_() for site in table.sites}
    edits = {site: _plus(each) for site, each in nothing.items()}
    logits = intervene(network, own_inputs, edits, grad=True)
    gradients = torch.autograd.grad(metric(logits).sum(), list(nothing.values()), allow_unused=True)
    for site, gradient in zip(nothing, gradients, strict=True):
        change = replacement(both[not denoising][1].activations[site]) - own.activations[site]
        effect = torch.zeros_like(change) if gradient is None else change * gradient
        table.fill(site, effect.detach())
    n = len(clean)
    return _scores("attribution patching", table, both, metric, Cost(forward=3 * n, backward=n), denoising)


_Run = tuple[Tensor, Observation]
"""Inputs and what they give."""


def _both(
    network: nn.Module, clean: Tensor, corrupt: Tensor, sites: Sequence[str], denoising: bool
) -> dict[bool, _Run]:
    """The clean run under False, the corrupt one under True: what is patched is under `denoising`."""
    if clean.shape != corrupt.shape or not len(clean):
        was, now = list(clean.shape), list(corrupt.shape)
        raise bad_input("pairs", f"clean {was} and corrupt {now} must pair row for row; give one corrupt input a row")
    if not sites:
        raise bad_input("site", "no site to patch; name at least one")
    runs = {False: (clean, observe(network, clean, sites)), True: (corrupt, observe(network, corrupt, sites))}
    for site, activation in runs[denoising][1].activations.items():
        if not activation.ndim or len(activation) != len(clean):
            shape = list(activation.shape)
            raise bad_input("site", f"{shown(site)} gives {shape}: its rows are not the {len(clean)} inputs")
    return runs


class _Table:
    """One number for each part of each site; sites with fewer parts leave NaN."""

    def __init__(self, activations: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
        self.sites = list(activations)
        self.names = list(axes)
        self._dims = {site: _dims(site, output, axes) for site, output in activations.items()}
        self._sizes = {site: [activations[site].shape[d] for d in dims] for site, dims in self._dims.items()}
        longest = [max(sizes) for sizes in zip(*self._sizes.values(), strict=True)]
        self.values = torch.full((len(self.sites), *longest), torch.nan, dtype=torch.float64)

    @property
    def count(self) -> int:
        return sum(len(list(self.parts(site))) for site in self.sites)

    def parts(self, site: str) -> product[tuple[int, ...]]:
        return product(*(range(size) for size in self._sizes[site]))

    def place(self, site: str, part: tuple[int, ...]) -> dict[int, int]:
        """Dimension of the output → index."""
        return dict(zip(self._dims[site], part, strict=True))

    def put(self, site: str, part: tuple[int, ...], value: float) -> None:
        self.values[(self.sites.index(site), *part)] = value

    def fill(self, site: str, effect: Tensor) -> None:
        """From the effect of each element [n, ...]: summed over each part, averaged over rows."""
        dims = self._dims[site]
        rest = tuple(d for d in range(1, effect.ndim) if d not in dims)
        ordered = effect.double().permute(0, *dims, *rest)
        shares = (ordered.flatten(1 + len(dims)).sum(-1) if rest else ordered).mean(0)
        index: list[int | slice] = [self.sites.index(site)]
        index += [slice(size) for size in self._sizes[site]]
        self.values[tuple(index)] = shares.cpu()

    def axes(self) -> tuple[Axis, ...]:
        labels = zip(self.names, self.values.shape[1:], strict=True)
        counted = (Axis(name, tuple(str(i) for i in range(size))) for name, size in labels)
        return (Axis("site", tuple(self.sites)), *counted)


def _dims(site: str, output: Tensor, axes: Mapping[str, int]) -> list[int]:
    dims = []
    for name, dim in axes.items():
        positive = dim + output.ndim if dim < 0 else dim
        if not 0 < positive < output.ndim or positive in dims:
            shape = list(output.shape)
            raise bad_input("axes", f"{shown(name)} = {dim} is no dimension of its own in {shown(site)}, {shape}")
        dims.append(positive)
    return dims


def _patch(new: Tensor, places: Sequence[Mapping[int, int]]) -> Callable[[Tensor], Tensor]:
    """An edit of len(places) copies of the rows, copy after copy: each has one part replaced."""

    def edit(activation: Tensor) -> Tensor:
        copies = activation.unflatten(0, (len(places), len(new)))
        for copied, place in zip(copies, places, strict=True):
            index: list[int | slice] = [slice(None)] * new.ndim
            for dim, at in place.items():
                index[dim] = at
            copied[tuple(index)] = new[tuple(index)]
        return activation

    return edit


def _plus(nothing: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda activation: activation + nothing


def _mean(metric: Tensor) -> float:
    return float(metric.double().mean())


def _scores(
    technique: str, table: _Table, both: Mapping[bool, _Run], metric: Metric, cost: Cost, denoising: bool
) -> Scores:
    clean, corrupt = (_mean(metric(both[which][1].logits)) for which in (False, True))
    return Scores(technique, table.values, table.axes(), clean, corrupt, cost, denoising)
