"""Directional ablation: its algebra, and a network in which one known direction carries the effect."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from candling.access import intervene, observe
from candling.techniques.locate import Direction, last_states, mean_differences

SIZE, TOKENS, TRIGGER = 6, 5, 4


class Sayer(nn.Module):
    """[n, L] tokens → [n, L, 2]: the second answer wins where the state holds enough of one slanted direction."""

    def __init__(self, carrier: Tensor, noise: float, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(TOKENS, SIZE)
        table = noise * torch.randn(TOKENS, SIZE, generator=g)
        table = table - (table @ carrier)[:, None] * carrier
        table[TRIGGER] += 3 * carrier
        self.embed.weight.data = table
        self.state = nn.Identity()
        self.register_buffer("carrier", carrier)

    def forward(self, ids: Tensor) -> Tensor:
        drawn = self.state(self.embed(ids)) @ self.carrier
        return torch.stack([torch.ones_like(drawn), drawn], -1)


def drawn(seed: int) -> tuple[Sayer, Tensor, Tensor, torch.Generator]:
    """A network, inputs that end in the trigger, the same with another last token."""
    g = torch.Generator().manual_seed(seed)
    carrier = torch.randn(SIZE, generator=g)
    network = Sayer(carrier / carrier.norm(), 0.1, seed)
    plain = torch.randint(TRIGGER, (20, 3), generator=g)
    changed = plain.clone()
    changed[:, -1] = TRIGGER
    return network, changed, plain, g


@pytest.mark.parametrize("seed", range(5))
def test_the_carrier_is_found_and_putting_it_back_undoes_the_effect_alone(seed):
    network, changed, plain, g = drawn(seed)
    (found,) = mean_differences(network, changed, plain, ["state"])
    assert float(found.unit @ network.carrier) > 0.98
    edited = intervene(network, changed, {"state": found.ablate()})[:, -1]
    assert network(changed)[:, -1].argmax(-1).all()
    assert not edited.argmax(-1).any()
    states = last_states(network, plain, "state")
    random = [found.random(g, states).ablate() for _ in range(20)]
    kept = [intervene(network, changed, {"state": edit})[:, -1].argmax(-1).float().mean() for edit in random]
    assert sum(kept) / len(kept) > 0.7


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_after_ablation_every_position_stands_at_the_level_and_the_rest_as_before(seed, level):
    network, changed, _, g = drawn(seed)
    unit = torch.randn(SIZE, generator=g)
    direction = Direction("state", unit / unit.norm(), level)
    before = observe(network, changed, ["state"]).activations["state"]
    after = direction.ablate()(before)
    assert torch.allclose(after @ direction.unit, torch.full(changed.shape, level), atol=1e-5)
    others = torch.randn(SIZE, SIZE - 1, generator=g)
    across = torch.linalg.qr(torch.cat([direction.unit[:, None], others], 1)).Q[:, 1:]
    assert torch.allclose(after @ across, before @ across, atol=1e-5)
    assert torch.allclose(direction.ablate()(after), after, atol=1e-5)


def test_where_nothing_changes_nothing_is_moved():
    network, _, plain, _ = drawn(0)
    (found,) = mean_differences(network, plain, plain, ["state"])
    assert not found.unit.any()
    assert torch.equal(intervene(network, plain, {"state": found.ablate()}), network(plain))
