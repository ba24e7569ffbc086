"""Difference of states: texts in which a language model's inside parts from its clean relatives'.

Question: in which texts, and where, does the subject do what the soup does not?
Source: Mahalanobis distance (Lee et al., 1807.03888) of the subject's residual states minus the soup's, fitted on
    trusted tokens, summed over blocks, the maximum over tokens.
Inputs: two decoders [n, L] → [n, L, V]; trusted and other texts as `Tokens`. Scores in squared standard deviations.
Cost: one forward pass of every text in either network.
Known failures: text of another sort (code, encyclopaedias) is unusual too: always print the false alarms on some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Decoder, Tokens, observe
from candling.maths.spread import Spread
from candling.techniques.flag.contract import Flags

_ROWS = 16  # texts in a pass


@dataclass(frozen=True)
class Difference:
    """Fitted on trusted texts."""

    network: Decoder
    beside: Decoder
    usual: dict[str, Spread]

    @classmethod
    def fit(cls, network: Decoder, beside: Decoder, trusted: Tokens) -> Difference:
        """On every block's output."""
        blocks = network.family.blocks
        depth = len(list(network.get_submodule(blocks).children()))
        sites = [f"{blocks}.{i}" for i in range(depth)]
        parts: dict[str, list[Tensor]] = {site: [] for site in sites}
        for ids, mask in zip(trusted.ids.split(_ROWS), trusted.mask.split(_ROWS), strict=True):
            for site, difference in _differences(network, beside, ids, sites).items():
                parts[site].append(difference[mask])
        return cls(network, beside, {site: Spread.of(torch.cat(seen)) for site, seen in parts.items()})

    def flag(self, texts: Tokens) -> Flags:
        """The most unusual token of each text among those that are not padding."""
        scores = []
        for ids, mask in zip(texts.ids.split(_ROWS), texts.mask.split(_ROWS), strict=True):
            seen = _differences(self.network, self.beside, ids, list(self.usual))
            far = torch.stack([self.usual[site].distance(seen[site]) for site in self.usual]).sum(0)
            scores.append(far.masked_fill(~mask, -torch.inf).cpu())
        score, at = torch.cat(scores).max(1)
        return Flags(score, at)


def _differences(network: Decoder, beside: Decoder, ids: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
    own, theirs = (observe(decoder, ids, sites).activations for decoder in (network, beside))
    return {site: own[site] - theirs[site] for site in sites}
