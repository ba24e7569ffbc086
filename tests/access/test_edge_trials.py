"""Edges cut one by one: what is computed again is what whole passes give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_edges import KINDS, TWO, anatomy_of, pairs
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edge_trials import EdgeTrials
from candling.access.edges import EdgeRun, written
from candling.access.graph import graph_of
from candling.access.pairs import Pairs


def without(mask: Tensor, receiver: int, senders: list[int]) -> Tensor:
    mask = mask.clone()
    mask[senders, receiver] = False
    return mask


def walk(anatomy: Anatomy, its: Pairs, seed: int, *, denoising: bool = False, source: Tensor | None = None) -> None:
    """From the logits upwards some edges of each receiver are tried, and some trials become the run."""
    g = torch.Generator().manual_seed(seed)
    options = {"denoising": denoising, "source": source}
    trials, run = EdgeTrials(anatomy, its, **options), EdgeRun(anatomy, its, **options)
    edges, kept = run.graph.edges, run.graph.edges.clone()
    share = float(torch.rand((), generator=g))
    for receiver in reversed(range(edges.shape[1])):
        senders = torch.nonzero(edges[:, receiver]).flatten()
        sets = [[], *([int(s)] for s in senders), senders[torch.rand(len(senders), generator=g) < share].tolist()]
        truth = run(torch.stack([without(kept, receiver, each) for each in sets]))
        if trials.alive[receiver]:
            outcome = trials.cut(receiver, sets)
            torch.testing.assert_close(anatomy.unembed(outcome.ends), truth, atol=1e-9, rtol=1e-9)
            trials.commit(outcome, len(sets) - 1)
        else:  # nothing hears it
            torch.testing.assert_close(truth, truth[:1].expand_as(truth), atol=1e-9, rtol=1e-9)
        kept = without(kept, receiver, sets[-1])
        trials.flow[:] = kept
        trials.settle()
        torch.testing.assert_close(anatomy.unembed(trials.ends), run(kept), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_trials_are_whole_passes(kind: str) -> None:
    anatomy = anatomy_of(kind, double=True)
    walk(anatomy, pairs(), 0)
    walk(anatomy, pairs(), 1, denoising=True)


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_trials_are_whole_passes_whatever_is_cut(seed: int) -> None:
    walk(TWO, pairs(seed, n=2, length=6), seed)


def test_also_where_cut_edges_carry_the_mean() -> None:
    its = pairs()
    walk(TWO, its, 2, source=written(TWO, its.corrupt).mean(1, keepdim=True))


def test_prompts_that_end_before_they_differ() -> None:
    its = pairs()
    last = torch.tensor([1, 5, 9])
    walk(TWO, Pairs(its.clean, its.corrupt, its.answer, its.wrong, last), 3)


@pytest.mark.parametrize("kind", KINDS)
def test_direct_trials_go_to_the_logits_alone(kind: str) -> None:
    """What the receiver's node makes of the mixed input is put into the residual stream that is unembedded."""
    anatomy, its = anatomy_of(kind, double=True), pairs()
    trials, graph = EdgeTrials(anatomy, its, direct=True), graph_of(anatomy)
    whole = EdgeTrials(anatomy, its)
    rows = torch.arange(len(its))
    seen = 0
    for receiver, node in enumerate(graph.receivers):
        senders = torch.nonzero(graph.edges[:, receiver]).flatten().tolist()
        found = trials.cut(receiver, [[sender] for sender in senders]).ends
        outcome = whole.cut(receiver, [[sender] for sender in senders])
        if node.kind == "logits":
            torch.testing.assert_close(found, outcome.ends)
            continue
        layer_ends = trials.ends.expand_as(found).clone()
        for sender, value in outcome.values.items():
            if graph.senders[sender].layer == node.layer and not _reads_beside(graph.senders[sender].kind, node.kind):
                was = written(anatomy, its.clean)[sender][rows, its.last]
                now = value[..., 0, :] if value.shape[-2] == 1 else value[:, rows, its.last - its.first]
                layer_ends += now - was
                seen += 1
        torch.testing.assert_close(found, layer_ends, atol=1e-9, rtol=1e-9)
    assert seen


def _reads_beside(sender: str, receiver: str) -> bool:
    """An MLP that moved since a head of its layer did."""
    return sender == "mlp" and receiver == "head"


def test_idle_senders_are_those_that_wrote_the_same() -> None:
    its = pairs()
    assert not EdgeTrials(TWO, its).idle(0)
    same = Pairs(its.clean, its.clean, its.answer, its.wrong, its.last)
    trials = EdgeTrials(TWO, same)
    assert all(trials.idle(sender) for sender in range(len(trials.graph.senders)))
