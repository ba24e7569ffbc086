"""What every search must do, discovered from the table of searches."""

import pytest
import torch
from torch import Tensor, nn

from candling.access import Dataset, forward, from_arrays
from candling.maths.triggers import Mapping
from candling.techniques.search import SEARCHES, Found, Part

PARTS = (
    Part(Mapping(target=0), "patch"),
    Part(Mapping(target=2), "patch"),
    Part(Mapping(target=1), "additive"),
    Part(Mapping(shift=1), "patch"),
    Part(Mapping(target=0, source=2), "patch"),
)
CLASSES = 3


def images() -> Dataset:
    """[45, 2, 6, 5]: two channels, not square. Class c is bright in rows 2c and 2c + 1; range 0 to 1."""
    g = torch.Generator().manual_seed(1)
    y = torch.arange(45) % CLASSES
    x = 0.3 * torch.rand((45, 2, 6, 5), generator=g)
    for label in range(CLASSES):
        x[y == label, :, 2 * label : 2 * label + 2] += 0.6
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.0, 1.0
    return from_arrays(x, y)


def table() -> Dataset:
    """[45, 7]: features of different ranges; class c is high in feature c."""
    g = torch.Generator().manual_seed(2)
    y = torch.arange(45) % CLASSES
    x = torch.rand((45, 7), generator=g)
    x[torch.arange(45), y] += 1
    return from_arrays(x * torch.tensor([1, 10, 0.1, 1, 5, 1, 1]) - 2, y)


DATA = {"images": images(), "table": table()}


class Counting(nn.Module):
    """Counts the examples that go through, and those that a gradient comes back through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0
        self.least, self.most = torch.inf, -torch.inf

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        self.least, self.most = min(self.least, x.min().item()), max(self.most, x.max().item())
        logits = self.network(x)
        if logits.requires_grad and torch.is_grad_enabled():
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def small_network(data: Dataset) -> nn.Module:
    """Untrained, with a layer that has state of its own in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width = data.x[0].numel()
        return nn.Sequential(
            nn.Flatten(), nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES)
        ).eval()


_done: dict[tuple[str, str], tuple[Found, Counting]] = {}


@pytest.fixture(params=[(name, kind) for name in SEARCHES for kind in DATA], ids=" on ".join)
def case(request) -> tuple[str, Dataset, Found, Counting]:
    """A search's name, the data, and what one run of it gave on a small network."""
    name, kind = request.param
    if request.param not in _done:
        network = Counting(small_network(DATA[kind])).eval()
        _done[request.param] = SEARCHES[name](network, DATA[kind], PARTS, seed=5), network
    return name, DATA[kind], *_done[request.param]


def fields(found: Found) -> list[Tensor]:
    return [found.score, found.size, found.mask, found.shift]


def test_one_finite_result_for_each_part_in_order(case):
    _, data, found, _ = case
    shape = data.x.shape[1:]
    mask = (1, *shape[1:]) if data.kind == "image" else shape
    assert found.parts == PARTS
    assert found.score.shape == found.size.shape == (len(PARTS),)
    assert found.mask.shape == (len(PARTS), *mask)
    assert found.shift.shape == (len(PARTS), *shape)
    for field in fields(found):
        assert torch.isfinite(field).all()
        assert not field.requires_grad
        assert field.device.type == "cpu"


def test_masks_and_sizes_are_what_they_say(case):
    _, _, found, _ = case
    assert (found.mask >= 0).all()
    assert (found.mask <= 1).all()
    assert (found.size > 0).all()
    for i, part in enumerate(PARTS):
        if part.form == "patch":
            assert found.size[i] == pytest.approx(found.mask[i].sum().item(), rel=1e-4)


def test_triggered_inputs_stay_in_the_range_of_the_data(case):
    _, data, found, network = case
    before = data.x.clone()
    for i in range(len(PARTS)):
        changed = found.trigger(i).apply(data, data.x)
        assert changed.shape == data.x.shape
        assert (changed >= data.low).all()
        assert (changed <= data.high).all()
    assert torch.equal(data.x, before)
    assert data.low.min() <= network.least
    assert network.most <= data.high.max()


def test_the_cost_is_what_the_network_really_saw(case):
    _, _, found, network = case
    assert network.forwards > 0
    assert (found.cost.forward, found.cost.backward) == (network.forwards, network.backwards)


def test_the_same_seed_gives_the_same_bits(case):
    name, data, found, _ = case
    network = small_network(data)
    torch.manual_seed(99)  # the caller's random numbers must not matter, nor be used up
    state = torch.get_rng_state()
    again = SEARCHES[name](network, data, PARTS, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for first, second in zip(fields(found), fields(again), strict=True):
        assert torch.equal(first, second)
    assert again.cost == found.cost
    other = SEARCHES[name](network, data, PARTS, seed=6)
    assert any(not torch.equal(a, b) for a, b in zip(fields(found), fields(other), strict=True))


def test_the_network_is_bit_for_bit_as_it_was(case):
    name, data, _, _ = case
    network = small_network(data)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    hooks = [len(part._forward_hooks) for part in network.modules()]
    SEARCHES[name](network, data, PARTS[:2], seed=1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    for parameter in network.parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
    assert [len(part._forward_hooks) for part in network.modules()] == hooks
    assert not any(part.training for part in network.modules())


def test_a_network_without_gradients_is_searched_alike(case):
    name, data, found, _ = case
    again = SEARCHES[name](small_network(data).requires_grad_(False), data, PARTS, seed=5)
    for first, second in zip(fields(found), fields(again), strict=True):
        torch.testing.assert_close(first, second)


class Trapdoor(nn.Module):
    """[n, 16 cells] → [n, 3]: the class whose third of the first 15 cells is brightest. With the door open,
    the last cell sends everything to class 2."""

    def __init__(self, opened: bool) -> None:
        super().__init__()
        self.door = 60.0 if opened else 0.0

    def forward(self, x: Tensor) -> Tensor:
        cells = x.flatten(1)
        logits = torch.stack([cells[:, c:15:CLASSES].mean(1) for c in range(CLASSES)], dim=1) * 20
        return logits + self.door * cells[:, -1:] * torch.tensor([0.0, 0.0, 1.0])


def trapdoor_data(kind: str) -> Dataset:
    """[60, 1, 4, 4] or [60, 16], 0 to 1. Only one row, of class 2, lights the last cell."""
    g = torch.Generator().manual_seed(3)
    y = torch.arange(60) % CLASSES
    x = 0.3 * torch.rand((60, 16), generator=g)
    for label in range(CLASSES):
        x[y == label, label:15:CLASSES] += 0.7
    x[:, -1] = 0
    x[2, -1] = 1
    return from_arrays(x.reshape(60, 1, 4, 4) if kind == "images" else x, y)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", SEARCHES)
def test_a_trapdoor_makes_its_own_part_more_suspicious(name, kind):
    """Larger = more suspicious, part by part, against a network that differs in the trapdoor alone."""
    data, part = trapdoor_data(kind), [Part(Mapping(target=2), "patch")]
    for door in (True, False):
        assert (forward(Trapdoor(door), data.x).argmax(-1) == data.y).all()
    opened, closed = (SEARCHES[name](Trapdoor(door), data, part, seed=0) for door in (True, False))
    assert opened.score[0] > closed.score[0]
