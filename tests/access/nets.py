"""Small networks of every kind that the access layer must cope with, and what `unchanged` means for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from candling.access import sha256_state
from candling.errors import CandlingError


class Recurrent(nn.Module):
    """[n, 5] read as five steps → [n, 3]. Its GRU gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.gru(x[..., None])[0][:, -1])


class Shared(nn.Module):
    """One layer used twice, one under two names, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(5, 5)
        self.once = nn.Linear(5, 3)
        self.alias = self.once
        self.never = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.once(self.twice(self.twice(x).relu()))


class Attention(nn.Module):
    """[n, 5] as five tokens → [n, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x[..., None])
        return self.out(self.mix(h, h, h)[0].flatten(1))


def cnn() -> nn.Module:
    """[n, 5] as 5×1 images → [n, 3]; overwrites in place, and has state of its own in training mode."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 5, 1)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


def mlp() -> nn.Module:
    """[n, 5] → [n, 3]"""
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "mlp": mlp,
    "recurrent": Recurrent,
    "shared": Shared,
    "attention": Attention,
}


def runs_once(name: str, module: nn.Module) -> list[str]:
    """The sites that run exactly once in a pass."""
    odd = {"twice", "never", "mix.out_proj"}  # attention reads its output layer's weight without calling it
    return [path for path, _ in module.named_modules() if path and path not in odd]


def _state(module: nn.Module) -> list[object]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    parts = [
        (id(part), part.training, type(part).forward, [[*getattr(part, kind).items()] for kind in hooks])
        for part in module.modules()
    ]
    grads = [None if p.grad is None else p.grad.tolist() for p in module.parameters()]
    tensors = [(id(p), p.requires_grad, p.data_ptr()) for p in [*module.parameters(), *module.buffers()]]
    return [sha256_state(module), parts, grads, tensors]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Asserts that weights, gradients, modes and hooks are afterwards what they were."""
    before = _state(module)
    enabled = torch.is_grad_enabled()
    try:
        yield
    finally:
        assert _state(module) == before
        assert torch.is_grad_enabled() == enabled


def check_line(error: CandlingError) -> str:
    """The error's line, after checking that a terminal can show it."""
    line = str(error)
    assert line.startswith(f"error[{error.code}]: ")
    assert line.isprintable()
    assert len(line) <= 200, len(line)
    return line
