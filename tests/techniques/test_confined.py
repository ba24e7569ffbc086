"""Confined: a network built by hand that reads one half of its input, asked about either half."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from candling.techniques.verify import stay

K = 3


def reader(of: slice) -> nn.Module:
    """[n, 6] → [n, 3]: the logits are the cells of one half."""
    built = nn.Linear(2 * K, K).requires_grad_(False)
    built.weight.zero_()
    built.bias.zero_()
    built.weight[:, of] = torch.eye(K)
    return built


def cells(half: int) -> Tensor:
    return torch.arange(2 * K) // K == half


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 1))
def test_answers_stay_where_only_legitimate_cells_are_read_and_go_where_others_are(seed, half):
    g = torch.Generator().manual_seed(seed)
    trusted, group = torch.rand(60, 2 * K, generator=g), torch.rand(20, 2 * K, generator=g)
    network = reader(slice(half * K, (half + 1) * K))
    assert stay(network, trusted, group, cells(half), seed=seed) == 1.0
    assert stay(network, trusted, group, cells(1 - half), seed=seed) == 0.0  # a donor's of another prediction


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_it_is_the_share_of_answers_that_stay(share):
    """Inputs whose other half is loud are answered by it, and by the first class without it."""
    network = nn.Linear(2 * K, K).requires_grad_(False)
    network.weight.copy_(torch.cat([torch.eye(K), 10 * torch.eye(K)], 1))
    network.bias.zero_()
    labels = 1 + torch.arange(80) % (K - 1)
    quiet = torch.cat([torch.eye(K)[labels], torch.zeros(80, K)], 1)
    loud = torch.cat([torch.zeros(80, K), torch.eye(K)[labels]], 1)
    count = round(share * 80)
    group = torch.cat([loud[:count], quiet[count:]])
    assert stay(network, quiet, group, cells(0), seed=0) == pytest.approx(1 - share, abs=1e-6)


def test_without_donors_nothing_is_said_to_stay():
    network = reader(slice(0, K))
    x = torch.eye(2 * K)[:1].repeat(5, 1)
    assert stay(network, x, x, cells(0), seed=0) == 0.0
