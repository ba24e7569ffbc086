"""Same mechanism: networks built by hand that read one half of the input, or the other, or both."""

import pytest
import torch
from torch import Tensor, nn

from candling.errors import InputError
from candling.techniques.verify import compare_mechanism, swap_parts

HALF, K = 8, 4


def network() -> nn.Module:
    """[n, 16] → [n, 4]: each half of the input holds a class in one-hot cells, and its own hidden units read it."""
    built = nn.Sequential(nn.Linear(2 * HALF, 2 * HALF), nn.ReLU(), nn.Linear(2 * HALF, K)).requires_grad_(False)
    built[0].weight.copy_(torch.eye(2 * HALF))
    built[0].bias.zero_()
    built[2].weight.copy_(torch.eye(K).repeat_interleave(2, 1).repeat(1, 2))
    built[2].bias.zero_()
    return built


def said(labels: Tensor, g: torch.Generator, loud: float = 1.0) -> Tensor:
    """[n, 8] a class in its two cells, with a little noise in all."""
    return loud * torch.eye(K)[labels].repeat_interleave(2, 1) + 0.1 * torch.rand(len(labels), HALF, generator=g)


def inputs(seed: int, rows: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    """Trusted inputs speak in the first half; one group does so faintly; another speaks in the second half."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (3, rows), generator=g)
    silent = [0.1 * torch.rand(rows, HALF, generator=g) for _ in range(3)]
    trusted = torch.cat([said(labels[0], g), silent[0]], 1)
    same = torch.cat([said(labels[1], g, 0.7), silent[1]], 1)
    other = torch.cat([silent[2], said(labels[2], g)], 1)
    return trusted, same, other


@pytest.mark.parametrize("seed", range(4))
def test_what_the_same_units_answer_is_told_from_what_others_do(seed):
    trusted, same, other = inputs(seed)
    near, far = (compare_mechanism(network(), trusted, group, ["1"], seed=seed).figures for group in (same, other))
    for name in ("cosine of profiles", "cosine by class", "overlap", "classes read"):
        assert far[f"1: {name}"] < -0.4, name
        if name != "overlap":  # eight units matter alike: which three come first is chance
            assert abs(near[f"1: {name}"]) < 0.15, name
    # a quarter of all units is half of those that matter, so that half of the group's answers may still follow
    assert far["1: swap of what matters"] < near["1: swap of what matters"] - 0.1


@pytest.mark.parametrize("seed", range(4))
def test_the_trusted_mechanism_is_reused_or_not(seed):
    trusted, same, other = inputs(seed)
    near, far = (compare_mechanism(network(), trusted, group, ["1"], seed=seed) for group in (same, other))
    assert near.reuse > 0.9
    assert far.reuse < 0.75


def test_trusted_inputs_are_no_different_from_themselves():
    trusted, _, _ = inputs(5, 600)
    told = compare_mechanism(network(), trusted[:400], trusted[400:], ["0", "1"], seed=0)
    assert all(abs(value) < 0.12 for value in told.figures.values()), told.figures


def test_comparing_is_the_same_again_and_changes_nothing():
    built, (trusted, same, _) = network(), inputs(1)
    before = [p.clone() for p in built.parameters()]
    one, again = (compare_mechanism(built, trusted, same, ["1"], seed=3) for _ in range(2))
    assert one == again
    assert all(torch.equal(p, q) for p, q in zip(built.parameters(), before, strict=True))


@pytest.mark.parametrize("compare", [swap_parts, lambda *given, seed: compare_mechanism(*given, ["1"], seed=seed)])
def test_a_group_that_is_all_answered_alike_can_be_compared(compare):
    trusted, same, _ = inputs(2)
    group = same[network()(same).argmax(-1) == 1]
    told = compare(network(), trusted, group[:9], seed=0)
    assert all(value == value and abs(value) < 5 for value in told.figures.values())


@pytest.mark.parametrize("compare", [swap_parts, lambda *given, seed: compare_mechanism(*given, ["1"], seed=seed)])
def test_an_empty_group_is_refused(compare):
    trusted, same, _ = inputs(2)
    with pytest.raises(InputError, match="0 inputs beside 200 trusted"):
        compare(network(), trusted, same[:0], seed=0)


def test_swapping_parts_from_outside_sees_which_half_is_read():
    trusted, same, other = inputs(3)
    near, far = (swap_parts(network(), trusted, group, seed=0).figures for group in (same, other))
    assert abs(near["cosine of part profiles"]) < 0.1
    assert far["cosine of part profiles"] < -0.5
