"""What ACDC costs: every edge of a decoder tried, in raw forward passes of the same prompts.

One process, one thread, CPU time. Raw passes and searches alternate, so that a busy machine slows both; medians over
the rounds. The decoder has 4 layers of 4 heads and MLPs, width 256: 479 edges. Its weights are random, drawn so that
heads attend sharply, so that hardly an edge is without effect: the cost falls with the edges that are kept, and the
first threshold, which keeps whatever the paper's rule lets it keep, is the worst case. The metric is the KL from the
clean run. Goal: at most 77 raw passes for all 479 decisions.

    python benchmarks/acdc.py [--rounds 5] [--pairs 16] [--length 16] [--first 4] [--vocabulary 512]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from candling.access import Blueprint, Decoder
from candling.access.dissect import dissect
from candling.access.edges import EdgeRun
from candling.access.pairs import Pairs
from candling.techniques.locate.acdc import acdc
from candling.techniques.locate.circuit_type import Circuit

THRESHOLDS = (1e-9, 0.01, 0.1, 0.3)


def drawn(vocabulary: int, length: int) -> Decoder:
    settings = {
        "model_type": "gpt2",
        "vocab_size": vocabulary,
        "n_positions": length,
        "n_embd": 256,
        "n_layer": 4,
        "n_head": 4,
    }
    decoder = Blueprint(json.dumps(settings))()
    torch.manual_seed(0)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.06 if ".h." in name else 0.3)
    return decoder.eval().requires_grad_(False)


def drawn_pairs(n: int, length: int, first: int, vocabulary: int) -> Pairs:
    """They differ from the position `first` on, in every token."""
    g = torch.Generator().manual_seed(1)
    clean, corrupt = torch.randint(vocabulary, (2, n, length), generator=g)
    corrupt[:, :first] = clean[:, :first]
    answer, wrong = torch.randint(vocabulary, (2, n), generator=g)
    return Pairs(clean, corrupt, answer, wrong, torch.full((n,), length - 1))


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser()
    given = (("rounds", 5), ("pairs", 16), ("length", 16), ("first", 4), ("vocabulary", 512))
    for name, default in given:
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    decoder = drawn(chosen.vocabulary, chosen.length)
    anatomy = dissect(decoder).anatomy
    pairs = drawn_pairs(chosen.pairs, chosen.length, chosen.first, chosen.vocabulary)
    run = EdgeRun(anatomy, pairs)
    clean = decoder(pairs.clean)[:, -1].log_softmax(-1)

    def metric(logits: Tensor) -> Tensor:
        return (clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)

    edges: Tensor = run.graph.edges
    print(f"{int(edges.sum())} edges, {len(pairs)} prompts of {pairs.length} tokens, the first {pairs.first} alike")

    def search(tau: float) -> Circuit:
        return acdc(anatomy, pairs, tau, metric=metric, loss=True)

    decoder(pairs.clean), run(edges), search(1.0)  # the first passes are slower
    raw: list[float] = []
    whole: list[float] = []
    found: dict[float, Circuit] = {}
    spent: dict[float, list[float]] = {tau: [] for tau in THRESHOLDS}
    for _ in range(chosen.rounds):
        for tau in THRESHOLDS:
            raw += [seconds(lambda: decoder(pairs.clean)) for _ in range(5)]
            whole.append(seconds(lambda: run(edges)))
            spent[tau].append(seconds(lambda tau=tau: found.update({tau: search(tau)})))
    one = median(raw)
    print(f"raw pass {1e3 * one:.1f} ms; a pass of the graph {median(whole) / one:.2f} raw passes")
    for tau in THRESHOLDS:
        circuit = found[tau]
        tried = circuit.cost.forward // len(pairs) - 2
        print(
            f"tau {tau:<6g} {circuit.edges:3d} edges kept, {tried:3d} trials, "
            f"KL {circuit.value:.3f} of {circuit.corrupt:.3f}: {median(spent[tau]) / one:.1f} raw passes"
        )


if __name__ == "__main__":
    main()
