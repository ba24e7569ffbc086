"""What attribution costs, in raw forward passes: AtP of all nodes, EAP of all edges, EAP-IG with 5 steps.

A raw pass is the bare network on the clean prompt of the same pair, all logits included. GPT-2 small's shape with
random weights, one pair of 16 tokens, one thread. One process, CPU time; the arms alternate, so that a busy machine
slows all; a figure is the median over rounds of the ratio to the raw pass of the same round. Pairs differ from the
first token on, which leaves nothing to skip, or from the eleventh.

Extra memory: for each job a fresh process makes the network, runs it once, gives what it has freed back to the system
and sets its peak of resident memory back; then it runs the job once. The extra is by how much the peak (VmHWM) then
exceeds what was resident before. Linux with glibc only. Making the network has a higher peak of its own, so that
ru_maxrss, which cannot be set back, would show nothing.

    python benchmarks/attribution.py [rounds]
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import transformers

from candling.access import Decoder, family_of
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.techniques.locate.attribution_patching import NODES, attribution_patching
from candling.techniques.locate.contract import LogitDifference
from candling.techniques.locate.edge_attribution import edge_attribution, edge_attribution_ig

LENGTH = 16
EVERY = (*NODES, "attn.q", "attn.k", "attn.v")
Job = Callable[[Anatomy, Pairs, LogitDifference], object]
JOBS: dict[str, tuple[Job, float]] = {
    "AtP, all nodes": (lambda a, p, m: attribution_patching(a, p, metric=m, nodes=EVERY), 2.0),
    "EAP": (lambda a, p, m: edge_attribution(a, p, metric=m), 2.5),
    "EAP, secants": (lambda a, p, m: edge_attribution(a, p, metric=m, secants=True), 2.5),
    "EAP-IG, 5 steps": (lambda a, p, m: edge_attribution_ig(a, p, metric=m), 6.0),
}
GOAL_MB = {"EAP": 64.0}


def network() -> tuple[Decoder, Anatomy]:
    torch.manual_seed(0)
    source = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config(attn_implementation="sdpa"))
    decoder = Decoder(source, family_of({"model_type": "gpt2"})).eval().requires_grad_(False)
    return decoder, dissect(decoder).anatomy


def pair(first: int) -> Pairs:
    g = torch.Generator().manual_seed(first)
    clean, corrupt = torch.randint(50257, (2, 1, LENGTH), generator=g)
    corrupt[:, :first] = clean[:, :first]
    return Pairs(clean, corrupt, torch.tensor([11]), torch.tensor([12]), torch.tensor([LENGTH - 1]))


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def times(rounds: int) -> None:
    decoder, anatomy = network()
    print(f"{int(graph_of(anatomy).edges.sum()):,} edges")
    print(f"{'job':20}{'differs from':>13}{'goal':>6}{'in fwd':>8}{'raw ms':>8}{'extra MB':>10}{'goal':>6}")
    extra = {name: memory(name) for name in JOBS}
    for first in (0, 10):
        pairs = pair(first)
        metric = LogitDifference(pairs.answer, pairs.wrong)
        arms: list[Callable[[], object]] = [lambda pairs=pairs: decoder(pairs.clean)]
        arms += [lambda job=job, pairs=pairs, m=metric: job(anatomy, pairs, m) for job, _ in JOBS.values()]
        measured = [[seconds(arm) for arm in arms] for _ in range(rounds + 2)][2:]
        raw = 1e3 * median(row[0] for row in measured)
        for place, (name, (_, goal)) in enumerate(JOBS.items(), 1):
            ratio = median(row[place] / row[0] for row in measured)
            room = GOAL_MB.get(name)
            verdict = "met" if ratio <= goal and (room is None or extra[name] <= room) else "MISSED"
            row = f"{name:20}{first:>13}{goal:>6.1f}{ratio:>8.2f}{raw:>8.1f}{extra[name]:>10.0f}{room or '-':>6}"
            print(f"{row}  {verdict}")


def memory(name: str) -> float:
    """Megabytes, from a fresh process."""
    done = subprocess.run([sys.executable, __file__, "memory", name], capture_output=True, text=True, check=True)
    return float(done.stdout)


@torch.no_grad()
def grown(name: str) -> float:
    decoder, anatomy = network()
    pairs = pair(0)
    decoder(pairs.clean)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    JOBS[name][0](anatomy, pairs, LogitDifference(pairs.answer, pairs.wrong))
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """Megabytes, by a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["memory"]:
        print(grown(sys.argv[2]))
    else:
        times(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
