"""Flagging any network's inputs: a detector on each of several layers, on states or on attributions.

Question: which untrusted inputs does the network treat unlike trusted ones, judged over its depth?
Source: the detectors of this folder; attribution features after 2504.08812: gradient × (state − trusted mean) of the
    predicted class's logit, unit by unit.
Inputs: network [n, ...] → [n, K]; trusted and untrusted inputs, tokens too; sites by module path, with outputs
    [n, units, ...], or [n, positions, units] where positions are named. Scores in median absolute deviations of
    trusted inputs that the detector was not fitted on, averaged over sites and positions.
Cost: one forward pass of each input; with attributions a backward pass as well.
Known failures: those of the detector; a site with constant units for trusted inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from candling.access import forward, intervene, observe
from candling.techniques.flag.confidence import confidence
from candling.techniques.flag.contract import Fit, Flags

_ROWS = 512


def flag_inputs(
    network: nn.Module,
    trusted: Tensor,
    untrusted: Tensor,
    fit: Fit,
    sites: Sequence[str],
    *,
    attributions: bool = False,
    at: Sequence[int] = (),
) -> tuple[Flags, Flags]:
    """(trusted inputs that the detector was not fitted on, untrusted ones): every second trusted input is fitted on.

    at: the positions that are read, each on its own, where outputs are [n, positions, units], as those of tokens are;
    what stands at others is not seen. `confidence` sees the outputs alone, whatever the sites.
    """
    fitted, held = trusted[::2], trusted[1::2]
    labels = forward(network, fitted).argmax(-1)
    places = list(product(sites, at or (None,)))
    layers = [(None, None)] if fit is confidence else places
    known, found = torch.zeros(len(held)), torch.zeros(len(untrusted))
    for site, position in layers:
        own, usual, seen = _described(network, (fitted, held, untrusted), site, attributions, position)
        score = fit(own, labels, seen)
        of_known = score(usual)
        middle = of_known.median()
        scale = (of_known - middle).abs().median().clamp_min(1e-12)
        known += ((of_known - middle) / scale).cpu()
        found += ((score(seen) - middle) / scale).cpu()
    return Flags(known / len(layers)), Flags(found / len(layers))


def _described(
    network: nn.Module, inputs: Sequence[Tensor], site: str | None, attributions: bool, at: int | None
) -> list[Tensor]:
    """[n, units] of each: logits, states, or attributions against the mean state of the first."""
    if site is None:
        return [forward(network, x) for x in inputs]
    if not attributions:
        return [states_of(network, x, site, at=at) for x in inputs]
    centre = states_of(network, inputs[0], site, at=at).mean(0)
    return [_attributions(network, x, site, centre, at) for x in inputs]


def states_of(network: nn.Module, inputs: Tensor, site: str, *, at: int | None = None) -> Tensor:
    """[n, units] a site's output, averaged over the dimensions behind the units; or at one position before them."""
    parts = [observe(network, part, [site]).activations[site] for part in inputs.split(_ROWS)]
    return torch.cat([_unit_by_unit(part, at).mean(2) for part in parts])


def _attributions(network: nn.Module, inputs: Tensor, site: str, centre: Tensor, at: int | None) -> Tensor:
    """[n, units] gradient of the predicted class's logit × (state − centre), summed over what states are averaged."""
    found = []
    for part in inputs.split(_ROWS):
        state, gradient = _gradient(network, part, site)
        found.append((_unit_by_unit(gradient, at) * (_unit_by_unit(state, at) - centre[:, None])).sum(2))
    return torch.cat(found)


def _gradient(network: nn.Module, inputs: Tensor, site: str) -> tuple[Tensor, Tensor]:
    """A site's output and the gradient there, whether or not inputs and weights have one: tokens have none."""
    kept: list[Tensor] = []

    def leaf(state: Tensor) -> Tensor:
        kept.append(state.detach().requires_grad_())
        return kept[0]

    logits = intervene(network, inputs, {site: leaf}, grad=True)
    (gradient,) = torch.autograd.grad(logits.amax(-1).sum(), kept[0])
    return kept[0].detach(), gradient


def _unit_by_unit(output: Tensor, at: int | None) -> Tensor:
    """[n, units, places]; one place where a position was named, or where there are no others."""
    if at is not None and output.ndim > 2:
        output = output[:, at]
    return output.reshape(*output.shape[:2], -1)
