"""What `observe` costs on top of a raw forward pass, at three sites a layer.

One process, one thread, CPU time. Raw and observed passes alternate, so that a busy machine slows both;
medians over the rounds. Goal: at most 1.05 times the raw pass, 1.10 where that takes under 5 ms.

A raw pass hands each layer's memory to the next; whoever keeps activations needs fresh pages for them. The
column `kept` shows that floor: bare hooks that do nothing but keep, some 20 µs a site and the new pages. The
pages are cheap once the allocator holds on to freed memory, as in any process that has loaded data, but not
where tens of megabytes are kept a pass; layers far below a millisecond feel the hooks.

    python benchmarks/observe.py [rounds]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from candling.access import observe, sites

TOKENS = 32


class Block(nn.Module):
    """One pre-norm encoder layer; its three sites are the two branches and the stream after them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, tokens, width] to the same shape."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(x)
        return y


def cnn(channels: list[int]) -> nn.Module:
    """A convolution, batch norm and ReLU a layer: each is a site."""
    layers: list[nn.Module] = []
    for before, after in zip([3, *channels], channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 10))


def mlp(width: int, depth: int) -> nn.Module:
    """A linear map, layer norm and GELU a layer: each is a site."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def transformer(width: int, depth: int) -> nn.Module:
    """Encoder layers over embedded tokens, averaged and classified."""
    blocks = [Block(width, heads=4) for _ in range(depth)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(TOKENS * width, 10))


def cases() -> list[tuple[str, nn.Module, Tensor, list[str]]]:
    """Name, network in eval mode, inputs, and three sites a layer."""
    small, deep, encoder = cnn([32, 64]), mlp(1024, 12), transformer(256, 12)
    found = [
        ("CNN, 2 layers", small, torch.randn(5, 3, 28, 28), sites(small)[:6]),
        ("MLP, 12 layers", deep, torch.randn(128, 1024), sites(deep)[:36]),
        (
            "transformer, 12 layers",
            encoder,
            torch.randn(8, TOKENS, 256),
            [name for n in range(12) for name in (f"{n}.out", f"{n}.mlp", f"{n}")],
        ),
    ]
    for _, network, inputs, _ in found:
        network.eval()(inputs)
    return found


def keep(network: nn.Module, inputs: Tensor, names: list[str]) -> dict[str, Tensor]:
    """The least that keeps the same activations."""
    kept: dict[str, Tensor] = {}
    handles = []
    for name in names:

        def hook(part: nn.Module, args: object, output: Tensor, name: str = name) -> None:
            kept[name] = output

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return kept


def raw(network: nn.Module, inputs: Tensor, names: list[str]) -> None:
    with torch.no_grad():
        network(inputs)


def seconds(run: Callable[[nn.Module, Tensor, list[str]], object], *case: Any) -> float:
    """CPU time of one call, what it returns freed."""
    start = time.process_time()
    run(*case)
    return time.process_time() - start


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.ones(8_000_000)  # 32 MB, freed at once: from here on the allocator holds on to memory
    print(f"{'network':24}{'sites':>6}{'raw ms':>10}{'kept':>8}{'observed':>10}{'goal':>7}")
    for name, network, inputs, names in cases():
        arms = (raw, keep, observe)
        times = [[seconds(arm, network, inputs, names) for arm in arms] for _ in range(rounds + 3)][3:]
        bare, floor, seen = (median(column) for column in zip(*times, strict=True))
        goal = 1.10 if bare < 5e-3 else 1.05
        verdict = "met" if seen / bare <= goal else "MISSED"
        sizes = f"{name:24}{len(names):>6}{1e3 * bare:>10.2f}"
        print(f"{sizes}{floor / bare:>8.3f}{seen / bare:>10.3f}{goal:>7.2f}  {verdict}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 41)
