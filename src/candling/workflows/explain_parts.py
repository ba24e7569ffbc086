"""What an explanation works on: the model's parts, an untrained twin, pairs of one length."""

from __future__ import annotations

import copy

import torch
from torch import nn

from candling.access import LanguageModel
from candling.access.anatomy import Anatomy
from candling.access.dissect import Dissected, dissect
from candling.access.pairs import Pairs

SHOWN = 64
"""Most pairs that the maps average."""


def salt(seed: int) -> str:
    """Of the split into finding and held-out pairs."""
    return f"explain {seed}"


def parts(model: LanguageModel, device: str) -> Dissected:
    """The model taken apart, on a device. Raises InputError as `dissect`."""
    return dissect(_placed(model.model.module, device), model.family.layout)


def _placed(module: nn.Module, device: str) -> nn.Module:
    """On the device; the model that was given stays where it is."""
    if torch.device(device).type == "cpu":
        return module
    return copy.deepcopy(module).to(device)


def fresh(model: LanguageModel, device: str) -> Anatomy:
    """The same architecture with fresh weights, drawn from the global generator."""
    like = next(model.model.module.parameters())
    module = model.model.architecture().to(like.dtype).requires_grad_(False)
    return dissect(_placed(module, device), model.family.layout).anatomy


def alike(pairs: Pairs) -> Pairs:
    """Those of the commonest length and places of difference (the first of several), at most `SHOWN`.

    Only there does a position mean the same in all.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, last in enumerate(pairs.last.tolist()):
        differing = torch.nonzero(pairs.clean[row, : last + 1] != pairs.corrupt[row, : last + 1]).flatten()
        rows.setdefault((last, *differing.tolist()), []).append(row)
    return pairs.take(torch.tensor(max(rows.values(), key=len)[:SHOWN]))
