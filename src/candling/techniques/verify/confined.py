"""Confined: do the answers come from those cells of the input alone that somebody calls legitimate?

Question: whatever the mechanism is, does it read nothing but what the network may read?
Source: counterfactual inputs, all other cells exchanged with a trusted donor's of another prediction, as in
    `part_swap` (occlusion: Zeiler and Fergus, 1311.2901, with a donor's values).
Inputs: network [n, ...] → [n, K]; trusted and untrusted inputs; the legitimate cells, bool, shaped like one input.
Cost: three forward passes of every input that is used.
Known failures: a cue that lies among the legitimate cells; what is drawn from both kinds of cells jointly; with a
    mask of nearly everything the answer says nothing, which is the user's to see.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from candling.access import forward
from candling.techniques.verify.part_swap import donors_of
from candling.techniques.verify.same_mechanism import MOST


def stay(network: nn.Module, trusted: Tensor, untrusted: Tensor, legitimate: Tensor, *, seed: int) -> float:
    """Share of the group's answers that stay when all cells that are not legitimate are exchanged.

    0 where no trusted input is answered otherwise than the group's. Outputs alone are used.
    """
    g = torch.Generator().manual_seed(seed)
    group = untrusted[torch.randperm(len(untrusted), generator=g)[:MOST]]
    donors, _, usable = donors_of(network, group, trusted, g)
    if not usable.any():
        return 0.0
    answers, after = (forward(network, x).argmax(-1) for x in (group, torch.where(legitimate, group, donors)))
    return float((answers == after)[usable].float().mean())
