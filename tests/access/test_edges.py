"""Circuits run as they are: whole, empty, and against a slow loop over receivers in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import SETTINGS, VOCABULARY, network
from torch import Tensor

from candling.access import Decoder, family_of
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.edges import EdgeRun, ablate_edges, lone, written
from candling.access.graph import graph_of
from candling.access.pairs import Pairs
from candling.errors import InputError

KINDS = sorted(SETTINGS)


def anatomy_of(kind: str, *, double: bool = False) -> Anatomy:
    model = network(kind)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for parameter in model.parameters():  # large enough that patterns are not flat, and biases are not zero
            parameter.data += 0.1 * torch.randn_like(parameter)
    whole = Decoder(model, family_of({"model_type": kind})).eval().requires_grad_(False)
    return dissect(whole.double() if double else whole).anatomy


def pairs(seed: int = 0, n: int = 3, length: int = 10) -> Pairs:
    """Prompts of unlike length that differ from their third token on."""
    g = torch.Generator().manual_seed(seed)
    clean = torch.randint(VOCABULARY, (n, length), generator=g)
    corrupt = clean.clone()
    corrupt[:, 2:] = torch.randint(VOCABULARY, (n, length - 2), generator=g)
    last = torch.randint(length // 2, length, (n,), generator=g)
    answer, wrong = torch.randint(VOCABULARY, (2, n), generator=g)
    return Pairs(clean, corrupt, answer, wrong, last)


def at_ends(logits: Tensor, its: Pairs) -> Tensor:
    return logits[torch.arange(len(its)), its.last]


def slow(anatomy: Anatomy, base: Tensor, other: Tensor, kept: Tensor) -> Tensor:
    """[n, L, V]: one receiver, one head and one sender at a time."""
    graph, senders = graph_of(anatomy), graph_of(anatomy).senders
    swapped = dict(zip(senders, written(anatomy, other), strict=True))
    now = {senders[0]: anatomy.embed(base)}
    bias = torch.zeros(anatomy.width, dtype=anatomy.embedding.dtype)
    biases = {-1: bias}

    def reads(name: str, layer_bias: Tensor) -> Tensor:
        column = [str(r) for r in graph.receivers].index(name)
        total = torch.zeros_like(now[senders[0]]) + layer_bias
        for row, sender in enumerate(senders):
            if graph.edges[row, column]:
                total = total + (now[sender] if kept[row, column] else swapped[sender])
        return total

    for layer, block in enumerate(anatomy.blocks):
        own, before = block.attention, biases[layer - 1]
        after = before if own.output_bias is None else before + own.output_bias
        made = {}
        for head in range(own.heads):
            group = head // (own.heads // own.groups)
            stem = f"blocks.{layer}.attn.head"
            q = own.queries(block.attention_norm(reads(f"{stem}_q_in.{head}", before)))[:, head]
            k = own.keys(block.attention_norm(reads(f"{stem}_k_in.{group}", before)))[:, group]
            v = own.values(block.attention_norm(reads(f"{stem}_v_in.{group}", before)))[:, group]
            scores = q @ k.transpose(1, 2) * own.scale
            for i in range(scores.shape[1]):
                for j in range(scores.shape[2]):
                    if j > i or (own.window is not None and i - j >= own.window):
                        scores[:, i, j] = -torch.inf
            made[f"{stem}_out.{head}"] = scores.softmax(-1) @ v @ own.output[head]
        now |= {s: made[str(s)] for s in senders if str(s) in made}
        if block.mlp is not None:
            x = reads(f"blocks.{layer}.mlp.in", before if block.parallel else after)
            now[next(s for s in senders if s.kind == "mlp" and s.layer == layer)] = block.mlp(block.mlp_norm(x))
        biases[layer] = after
    return anatomy.unembed(reads("logits", biases[anatomy.depth - 1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("denoising", [False, True])
def test_the_whole_graph_is_one_run_and_the_empty_one_the_other(kind: str, denoising: bool) -> None:
    anatomy, its = anatomy_of(kind), pairs()
    run = EdgeRun(anatomy, its, denoising=denoising)
    whole, empty = run(torch.stack([run.graph.edges, torch.zeros_like(run.graph.edges)]))
    clean, corrupt = (at_ends(anatomy(tokens), its) for tokens in (its.clean, its.corrupt))
    assert (clean - corrupt).abs().max() > 0.1
    first, second = (corrupt, clean) if denoising else (clean, corrupt)
    torch.testing.assert_close(whole, first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(empty, second, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_any_circuit_is_what_a_slow_loop_makes_of_it(kind: str) -> None:
    anatomy, its = anatomy_of(kind, double=True), pairs(1)
    run = EdgeRun(anatomy, its)
    masks = torch.rand(3, *run.graph.edges.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    found = run(masks)
    for mask, logits in zip(masks, found, strict=True):
        truth = at_ends(slow(anatomy, its.clean, its.corrupt, mask), its)
        torch.testing.assert_close(logits, truth, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(ablate_edges(anatomy, its, mask), logits)
    mirrored = ablate_edges(anatomy, its, masks[0], denoising=True)
    torch.testing.assert_close(mirrored, at_ends(slow(anatomy, its.corrupt, its.clean, masks[0]), its))
    assert (mirrored - found[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_senders_write_and_the_biases_are_the_residual_stream(kind: str) -> None:
    anatomy, its = anatomy_of(kind, double=True), pairs()
    total = written(anatomy, its.clean).sum(0)
    for block in anatomy.blocks:
        total = total + (0 if block.attention.output_bias is None else block.attention.output_bias)
    torch.testing.assert_close(anatomy.unembed(total), anatomy(its.clean))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_lone_heads_are_the_heads(kind: str) -> None:
    own = anatomy_of(kind, double=True).blocks[1].attention
    x = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = own.written(own.mixed(x))
    for head in range(own.heads):
        one = lone(own, head)
        torch.testing.assert_close(one.written(one.mixed(x))[:, 0], together[:, head])


@settings(max_examples=5)
@given(st.integers(0, 10_000))
def test_a_batch_is_its_masks_one_by_one_and_other_entries_are_nothing(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    run = EdgeRun(TWO, pairs(seed, n=2, length=6))
    masks = torch.rand(4, *run.graph.edges.shape, generator=g) < torch.rand((), generator=g)
    together = run(masks)
    torch.testing.assert_close(torch.stack([run(mask) for mask in masks]), together, atol=1e-9, rtol=0)
    torch.testing.assert_close(run(masks | ~run.graph.edges), together, atol=0, rtol=0)


TWO = anatomy_of("gpt_neox", double=True)


def test_where_no_prompt_changes_every_circuit_is_the_whole() -> None:
    its = pairs()
    its = Pairs(its.clean, its.clean, its.answer, its.wrong, its.last)
    run = EdgeRun(anatomy_of("gpt2"), its)
    masks = torch.rand(2, *run.graph.edges.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    first, second = run(masks)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_zeros_and_means_can_be_what_cut_edges_carry() -> None:
    its, anatomy = pairs(), anatomy_of("llama", double=True)
    none = torch.zeros_like(graph_of(anatomy).edges)
    zero = ablate_edges(anatomy, its, none, source=torch.zeros(1, 1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(zero, anatomy.unembed(torch.zeros(3, 32, dtype=torch.float64)))
    mean = written(anatomy, its.corrupt).mean(1, keepdim=True)
    found = ablate_edges(anatomy, its, none, source=mean)
    torch.testing.assert_close(found, at_ends(anatomy.unembed(mean.sum(0).expand(3, -1, -1)), its))
    with pytest.raises(InputError, match="broadcast"):
        EdgeRun(anatomy, its, source=torch.zeros(5, 1, 1, 1))
    with pytest.raises(InputError, match="receivers"):
        ablate_edges(anatomy, its, none[1:])


def test_gradients_reach_the_mask() -> None:
    run = EdgeRun(TWO, pairs(n=2, length=5))
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(run.graph.edges.shape, generator=g, dtype=torch.float64).requires_grad_()
    direction = torch.randn(mask.shape, generator=g, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(run(mask)[:, 7].sum(), mask)
    step = 1e-6
    up, down = (run(mask.detach() + sign * step * direction)[:, 7].sum() for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), (up - down) / (2 * step), atol=1e-6, rtol=1e-5)
    assert not gradient[~run.graph.edges].any()
