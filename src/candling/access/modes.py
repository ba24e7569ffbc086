"""Eval mode for the length of a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(module: nn.Module, *, grad: bool = False) -> Iterator[None]:
    """Eval mode for every part, with gradients only on request; modes are restored whatever happens."""
    training = [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            yield
    finally:
        for part in training:
            part.training = True
