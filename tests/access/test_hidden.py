"""Inner sites of any network: in order, spread over the depth, none of the output or of what cannot be observed."""

import pytest
import torch
from torch import nn

from candling.access.hidden import early_sites, hidden_sites
from candling.organisms.networks.digits import build

X = torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 20])
def test_sites_are_leaves_in_order_with_the_last_before_the_output(most):
    network, every = build(), [str(i) for i in range(8)]
    found = hidden_sites(network, X, most)
    assert len(found) <= most
    assert found == [name for name in every if name in found]
    assert found[-1] == "7"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_early_sites_leave_the_last_quarter_out(most):
    found = early_sites(build(), X, most)
    assert 0 < len(found) <= most
    assert found[-1] == "5"


def test_a_module_that_runs_twice_or_never_is_passed_over():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.idle, self.last = (nn.Linear(3, 3) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.shared(self.shared(self.first(x))))

    assert hidden_sites(Odd(), torch.rand(4, 3), 8) == ["first"]
