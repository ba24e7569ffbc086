"""What exact activation patching costs, in raw forward passes of the same prompt.

One process, one thread, CPU time. A GPT-2 of the small size with random weights; a raw pass is the bare `Decoder` on
one prompt, all logits. Raw passes and sweeps alternate, so that a busy machine slows both; medians over the rounds.
A job is all of the work for one pair: both runs, the patches, two logits of each. `f`: the first differing token,
and all after it differ too. Extra memory is the most that the process held above what it held before the job.

The last line is the usual way, one hooked pass a patch: the residual sweep of 16 tokens, from a share of its patches.

    python benchmarks/patching.py [rounds]
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor

from candling.access import Decoder, family_of, parts
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.parts import Part
from candling.access.sweep import sweep
from candling.access.sweep_plain import streams_of_both, sweep_plain
from candling.access.trace import both

ANSWERS = torch.tensor([11, 42])
FEW = 12  # patches that stand for all in the slow ways


@dataclass(frozen=True)
class Job:
    name: str
    tokens: int
    first: int
    goal: float | None
    run: Callable[[Tensor, Tensor], object]
    share: float = 1.0
    """Of the work that is run; the rest takes as long."""


def prompts(tokens: int, first: int) -> tuple[Tensor, Tensor]:
    clean = torch.randint(50_000, (tokens,))
    corrupt = clean.clone()
    corrupt[first:] = (clean[first:] + 1 + torch.randint(40_000, (tokens - first,))) % 50_000
    return clean, corrupt


def jobs(decoder: Decoder, anatomy: Anatomy) -> list[Job]:
    def exact(part: Part, by_position: bool = True) -> Callable[[Tensor, Tensor], object]:
        def run(clean: Tensor, corrupt: Tensor) -> object:
            own, other = both(anatomy, clean, corrupt)
            return sweep(anatomy, own, given=other, part=part, by_position=by_position, tokens=ANSWERS)

        return run

    def plain(clean: Tensor, corrupt: Tensor) -> object:
        own, other = streams_of_both(decoder, clean, corrupt)
        return sweep_plain(decoder, own, given=other.read, tokens=ANSWERS)

    residual, heads = exact(parts.resid_pre), exact(parts.heads, by_position=False)
    return [
        Job("residual, 12 × 16, f = 1", 16, 1, 20, residual),
        Job("residual, 12 × 16, f = 10", 16, 10, 6.5, residual),
        Job("residual, 12 × 64, f = 1", 64, 1, 100, residual),
        Job("residual, 12 × 64, f = 40", 64, 40, 18, residual),
        Job("heads, 144, 16 tokens, f = 1", 16, 1, 25, heads),
        Job("any decoder, residual, 12 × 16, f = 1", 16, 1, 45, plain),
    ]


def usual(decoder: Decoder) -> Job:
    """The residual sweep patch by patch: block inputs at (layer, position), FEW of 12 × 15."""
    cells = [(layer, place) for layer in range(12) for place in range(1, 16)]
    some = cells[:: len(cells) // FEW][:FEW]

    def hooked(clean: Tensor, corrupt: Tensor) -> None:
        _, other = streams_of_both(decoder, clean, corrupt)
        for layer, place in some:

            def before(block: Any, args: Any, layer: int = layer, place: int = place) -> Any:
                changed = args[0].clone()
                changed[0, place] = other.read[layer, place]
                return (changed, *args[1:])

            handle = decoder.transformer.h[layer].register_forward_pre_hook(before)
            decoder(clean[None])
            handle.remove()

    return Job("a hooked pass each, 12 × 16, f = 1", 16, 1, None, hooked, len(some) / len(cells))


def seconds(run: Callable[..., object], *given: Tensor) -> float:
    """CPU time of one call, what it returns freed."""
    start = time.process_time()
    run(*given)
    return time.process_time() - start


def _held(field: str) -> float | None:
    """MB, from Linux; None elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith(field)), None)


def extra(run: Callable[..., object], *given: Tensor) -> str:
    """The most memory that a call held above what was held before, in MB."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that earlier jobs freed goes back, or it would hide what is new
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError, TypeError):
        return "-"
    before = _held("VmRSS:")
    run(*given)
    most = _held("VmHWM:")
    return "-" if before is None or most is None else f"{max(0.0, most - before):.0f}"


@torch.no_grad()
def main(rounds: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval().requires_grad_(False)
    decoder = Decoder(source, family_of({"model_type": "gpt2"})).eval()
    anatomy = dissect(decoder).anatomy
    print(f"{'job':40}{'raw ms':>8}{'goal':>7}{'passes':>8}{'MB':>6}")
    for job in [*jobs(decoder, anatomy), usual(decoder)]:
        clean, corrupt = prompts(job.tokens, job.first)
        memory = extra(job.run, clean, corrupt)  # warms up too
        decoder(clean[None])
        times = []
        for _ in range(rounds):
            raw = [seconds(decoder, clean[None]) for _ in range(3)]
            times.append((median(raw), seconds(job.run, clean, corrupt) / job.share))
        bare, took = (median(column) for column in zip(*times, strict=True))
        goal = "" if job.goal is None else f"{job.goal:g}"
        verdict = "" if job.goal is None else "  met" if took / bare <= job.goal else "  MISSED"
        print(f"{job.name:40}{1e3 * bare:8.0f}{goal:>7}{took / bare:8.1f}{memory:>6}{verdict}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
