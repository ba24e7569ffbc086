"""Networks whose circuits are known, or were learned, with pairs and exact effects: what `circuits.py` grades on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.edges import EdgeRun
from candling.access.graph import Graph, graph_of
from candling.access.pairs import Pairs
from candling.organisms.networks.attention_only import looks_back, train_attention_only
from candling.organisms.networks.gates import KnownCircuit, and_gate, or_gate
from candling.organisms.networks.induction import (
    induction,
    repeat_accuracy,
    repeat_pairs,
    repeated,
    train_induction,
)
from candling.organisms.networks.programs import fraction, reverse
from candling.techniques.locate.contract import LogitDifference, Metric
from candling.techniques.locate.decomposition import composition

SHARPNESS = (2.0, 10.0, 40.0)
ZERO = torch.zeros(1, 1, 1, 1)
"""What is put in the place of what senders write."""


@dataclass(frozen=True, eq=False)
class Task:
    """One network with pairs, and what is known of it. Masks: bool [senders, receivers]."""

    anatomy: Anatomy
    pairs: Pairs
    seed: int
    denoising: bool = False
    true: Tensor | None = None
    shown: Tensor | None = None
    """True edges that the pairs can show in this direction."""
    ablatable: Tensor | None = None
    """Those that zeros in their place can show."""

    @property
    def metric(self) -> Metric:
        return LogitDifference(self.pairs.answer, self.pairs.wrong)

    @cached_property
    def graph(self) -> Graph:
        return graph_of(self.anatomy)

    @cached_property
    def edges(self) -> Tensor:
        """bool [k, senders, receivers]: each edge alone."""
        places = torch.nonzero(self.graph.edges)
        found = torch.zeros(len(places), *self.graph.edges.shape, dtype=torch.bool)
        found[torch.arange(len(places)), places[:, 0], places[:, 1]] = True
        return found

    @cached_property
    def nodes(self) -> dict[tuple[str, int, int], Tensor]:
        """(kind, layer, index) → the edges that a patched node changes: those that leave it, or that enter it."""
        whole, found = self.graph.edges, {}
        for place, node in enumerate(self.graph.senders[1:], 1):
            found["mlp.out" if node.kind == "mlp" else "attn.head_out", node.layer, node.index] = _only(whole, place)
        for place, node in enumerate(self.graph.receivers):
            if node.kind == "head":
                found[f"attn.{node.slot}", node.layer, node.index] = _only(whole.T, place).T
        return found

    @cached_property
    def exact_edges(self) -> Tensor:
        return exact(self, self.edges)

    @cached_property
    def exact_zero(self) -> Tensor:
        return exact(self, self.edges, ZERO)

    @cached_property
    def exact_nodes(self) -> Tensor:
        return exact(self, torch.stack(list(self.nodes.values())))

    @cached_property
    def exact_magnitudes(self) -> Tensor:
        """Of nodes, each pair's own."""
        return exact(self, torch.stack(list(self.nodes.values())), magnitudes=True)


def _only(edges: Tensor, row: int) -> Tensor:
    found = torch.zeros_like(edges)
    found[row] = edges[row]
    return found


@torch.no_grad()
def exact(task: Task, parts: Tensor, source: Tensor | None = None, *, magnitudes: bool = False) -> Tensor:
    """bool [k, senders, receivers] → [k]: what cutting these edges does, each by a pass of the whole network."""
    run = EdgeRun(task.anatomy, task.pairs, denoising=task.denoising, source=source)
    before = task.metric(run(run.graph.edges)).double()
    logits = (each for some in parts.split(64) for each in run(run.graph.edges & ~some))
    effects = torch.stack([task.metric(each).double() - before for each in logits])
    return (effects.abs() if magnitudes else effects).mean(1)


def known(make: Callable[..., KnownCircuit], n: int, seed: int, *, denoising: bool = False) -> Task:
    net = make(seed=seed)
    pairs = net.pairs(n, torch.Generator().manual_seed(seed))
    return Task(
        anatomy=net.anatomy,
        pairs=pairs,
        seed=seed,
        denoising=denoising,
        true=net.truth,
        shown=net.identifiable(pairs, denoising=denoising),
        ablatable=net.ablatable(denoising=denoising),
    )


def trained(n: int, seed: int) -> Task:
    decoder = train_induction(seed, steps=400)
    accuracy = repeat_accuracy(decoder, *repeated(500, torch.Generator().manual_seed(seed + 1)))
    print(f"  trained, seed {seed}: accuracy on repeated tokens {accuracy:.3f}")
    return Task(dissect(decoder).anatomy, repeat_pairs(n, torch.Generator().manual_seed(seed + 2)), seed)


def attention_alone(n: int, seed: int, *, steps: int | None = None) -> Task:
    anatomy = train_attention_only(seed) if steps is None else train_attention_only(seed, steps=steps)
    tokens, periods = repeated(500, torch.Generator().manual_seed(seed + 1))
    before, after = looks_back(anatomy, tokens, periods)
    composed = composition(anatomy)
    ((writer, reader, _),) = composed.best("k", 1)
    print(f"  seed {seed}: accuracy {repeat_accuracy(anatomy, tokens, periods):.3f}")
    by = ", ".join(f"by {slot.upper()} {composed.best(slot, 1)[0][2]:.1f}" for slot in "kqv")
    print(f"    the first K-composition: {writer} → {reader}; z of the first {by}")
    places = f"{before[0, int(writer[-1])]:.2f} one back, the reader {after[1, int(reader[-1])]:.2f}"
    print(f"    the writer looks {places} behind the last occurrence")
    return Task(anatomy, repeat_pairs(n, torch.Generator().manual_seed(seed + 2)), seed)


def cases() -> Iterator[tuple[str, Callable[[int, int], Task]]]:
    corrupt = {
        "corrupt A": {"changed": ("first",), "broken": True},
        "corrupt A and B": {"changed": ("first", "answer"), "broken": True},
        "corrupt prompt without answer": {"broken": True},
        "corrupt prompt with another answer": {},
    }
    for kind, settings in corrupt.items():
        for sharpness in SHARPNESS:
            name = f"induction by hand, sharpness {sharpness:g}, {kind}"
            yield name, partial(known, partial(induction, sharpness, **settings))
    for name, gate in (("AND", and_gate), ("OR", or_gate)):
        for denoising in (False, True):
            way = "denoising" if denoising else "noising"
            yield f"{name} gate, {way}", partial(known, partial(gate, noise=0.005), denoising=denoising)
    for noise in (0.0, 0.001):
        yield f"reverse, noise {noise:g}", partial(known, partial(reverse, noise=noise))
        yield f"fraction so far, noise {noise:g}", partial(known, partial(fraction, noise=noise))
    yield "induction, trained, GPT-2's shape", trained
    yield "induction, trained, attention alone", attention_alone
    yield "attention alone, untrained", partial(attention_alone, steps=0)
