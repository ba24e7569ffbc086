"""The compiled programs compute what they are called after, through their true edges alone."""

from collections.abc import Callable

import pytest
import torch
from edgewise import doubled, exact_edges, run
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access.graph import graph_of
from candling.organisms.networks.gates import KnownCircuit
from candling.organisms.networks.programs import (
    FRACTION_LENGTH,
    KINDS,
    LETTERS,
    LONGEST,
    SEPARATOR,
    fraction,
    reverse,
)

Program = Callable[..., KnownCircuit]
PROGRAMS = pytest.mark.parametrize("program", [reverse, fraction])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.permutations(range(LETTERS)), st.integers(1, LONGEST))
def test_reverse_says_the_letters_backwards_token_by_token(letters: list[int], length: int) -> None:
    """Greedily, from the letters and the separator alone."""
    net, own = reverse(), letters[:length]
    said = [*own, SEPARATOR]
    for _ in range(length):
        said.append(int(net.anatomy(torch.tensor([said]))[0, -1].argmax()))
    assert said[length + 1 :] == own[::-1]


@given(st.lists(st.integers(0, KINDS - 1), min_size=1, max_size=FRACTION_LENGTH))
def test_fraction_is_the_nearest_eighth_at_every_position(letters: list[int]) -> None:
    said = fraction().anatomy(torch.tensor([letters]))[0].argmax(-1) - KINDS
    counts = torch.tensor([letters[: i + 1].count(0) / (i + 1) for i in range(len(letters))])
    assert torch.equal(said, (counts * FRACTION_LENGTH).round().long())


@PROGRAMS
@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_clean_and_corrupt_prompts_have_their_answers(program: Program, noise: float) -> None:
    net = program(noise=noise)
    pairs = net.pairs(300, rng())
    assert (pairs.answer != pairs.wrong).all()
    for tokens, expected in ((pairs.clean, pairs.answer), (pairs.corrupt, pairs.wrong)):
        said = net.anatomy(tokens)[torch.arange(300), pairs.last].argmax(-1)
        assert (said == expected).float().mean() >= 0.99


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_reversed_prompts_end_together_and_share_no_letter(seed: int) -> None:
    pairs = reverse().pairs(6, rng(seed))
    for clean, corrupt, end in zip(pairs.clean.tolist(), pairs.corrupt.tolist(), pairs.last.tolist(), strict=True):
        lengths = [row.index(SEPARATOR) for row in (clean, corrupt)]
        assert lengths[0] != lengths[1]
        assert all(length <= end < 2 * length for length in lengths)
        assert not set(clean[: end + 1]) & set(corrupt[: end + 1]) - {SEPARATOR}


@PROGRAMS
def test_exact_patching_marks_the_identifiable_edges_and_no_other(program: Program) -> None:
    net = program()
    pairs = net.pairs(12, rng())
    shown, there = net.identifiable(pairs), graph_of(net.anatomy).edges
    effects = exact_edges(net.anatomy, pairs)
    assert (effects[shown] < -1).all()
    assert effects[there & ~shown].abs().max() == 0


@PROGRAMS
def test_zero_ablation_marks_all_true_edges_and_no_other(program: Program) -> None:
    net = program()
    effects = exact_edges(net.anatomy, net.pairs(24, rng()), zero=True)
    assert (effects[net.truth] < -1).all()
    assert effects[graph_of(net.anatomy).edges & ~net.truth].abs().max() == 0


def test_positions_are_what_reverse_hides_from_its_prompts() -> None:
    net = reverse()
    graph = graph_of(net.anatomy)
    hidden = net.truth & ~net.identifiable(net.pairs(12, rng()))
    assert {str(graph.receivers[r]) for _, r in torch.nonzero(hidden).tolist()} == {
        "blocks.0.attn.head_v_in.0",
        "blocks.0.mlp.in",
        "blocks.1.attn.head_k_in.1",
    }
    assert not hidden[1:].any()  # all of them leave the embedding
    counting = fraction()
    assert torch.equal(counting.identifiable(counting.pairs(12, rng())), counting.truth)


@PROGRAMS
def test_noise_moves_no_edge_across_the_line(program: Program) -> None:
    net = program(noise=0.001, seed=2)
    pairs = net.pairs(12, rng())
    effects, shown = exact_edges(net.anatomy, pairs).abs(), net.identifiable(pairs)
    assert effects[shown].min() > 20 * effects[graph_of(net.anatomy).edges & ~net.truth].max() > 0


@PROGRAMS
def test_the_slow_run_is_the_network(program: Program) -> None:
    net = program(noise=0.001)
    tokens = net.pairs(4, rng()).clean
    torch.testing.assert_close(run(doubled(net.anatomy), tokens, {})[0], doubled(net.anatomy)(tokens))
