"""Flagging any network's inputs: a detector on each of several layers, on states or on attributions.

Question: which untrusted inputs does the network treat unlike trusted ones, judged over its depth?
Source: the detectors of this folder; attribution features after 2504.08812: gradient × (state − trusted mean) of the
    predicted class's logit, unit by unit.
Inputs: network [n, ...] → [n, K]; trusted and untrusted inputs; sites by module path, with outputs [n, units, ...].
    Scores in median absolute deviations of trusted inputs that the detector was not fitted on, averaged over sites.
Cost: one forward pass of each input; with attributions a backward pass as well.
Known failures: those of the detector; a site with constant units for trusted inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from candling.access import forward, observe
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
) -> tuple[Flags, Flags]:
    """(trusted inputs that the detector was not fitted on, untrusted ones): every second trusted input is fitted on.

    `confidence` sees the outputs alone, whatever the sites.
    """
    fitted, held = trusted[::2], trusted[1::2]
    labels = forward(network, fitted).argmax(-1)
    layers: list[str | None] = [None] if fit is confidence else list(sites)
    known, found = torch.zeros(len(held)), torch.zeros(len(untrusted))
    for site in layers:
        own, usual, seen = _described(network, (fitted, held, untrusted), site, attributions)
        score = fit(own, labels, seen)
        of_known = score(usual)
        middle = of_known.median()
        scale = (of_known - middle).abs().median().clamp_min(1e-12)
        known += ((of_known - middle) / scale).cpu()
        found += ((score(seen) - middle) / scale).cpu()
    return Flags(known / len(layers)), Flags(found / len(layers))


def _described(network: nn.Module, inputs: Sequence[Tensor], site: str | None, attributions: bool) -> list[Tensor]:
    """[n, units] of each: logits, states averaged over positions, or attributions summed over them.

    Attributions are taken against the mean state of the first.
    """
    if site is None:
        return [forward(network, x) for x in inputs]
    if not attributions:
        return [states_of(network, x, site) for x in inputs]
    centre = states_of(network, inputs[0], site).mean(0)
    return [_attributions(network, x, site, centre) for x in inputs]


def states_of(network: nn.Module, inputs: Tensor, site: str) -> Tensor:
    """[n, units] a site's output, averaged over the dimensions behind the units."""
    parts = [observe(network, part, [site]).activations[site] for part in inputs.split(_ROWS)]
    return torch.cat([part.flatten(2).mean(2) if part.ndim > 2 else part for part in parts])


def _attributions(network: nn.Module, inputs: Tensor, site: str, centre: Tensor) -> Tensor:
    """[n, units] gradient of the predicted class's logit × (state − centre)."""
    found = []
    for part in inputs.split(_ROWS):
        seen = observe(network, part.clone().requires_grad_(part.is_floating_point()), [site], grad=True)
        state = seen.activations[site]
        (gradient,) = torch.autograd.grad(seen.logits.amax(-1).sum(), state)
        middle = centre.view(1, -1, *[1] * (state.ndim - 2))
        product = gradient * (state.detach() - middle)
        found.append(product.flatten(2).sum(2) if product.ndim > 2 else product)
    return torch.cat(found)
