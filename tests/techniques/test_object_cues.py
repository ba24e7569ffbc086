"""A marker beside the agent: found and named where a hand-built policy follows it; nothing like it in a clean one."""

import pytest
import torch
from torch import Tensor, nn

from candling.access import Dataset, from_arrays
from candling.maths.anchors import anchors
from candling.problems.bearings import roam, side, take_bearings
from candling.problems.foreseeing import share
from candling.problems.proxies import by_side, name_marks
from candling.techniques.search import CueSet, cue_parts, random_cues, random_cues_like, search_cues
from candling.techniques.search.cues import cue_passes
from candling.techniques.search.objects import Places, laid_on, places, shares

SIDE = 5
WAYS = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Going(nn.Module):
    """Goes the way of the goal (channel 1), or of the marker (channel 2) where there is one, `led` times as much.

    [n, 3, 5, 5] → [n, 4]: how far up, down, left and right of the agent (channel 0) they are.
    """

    def __init__(self, led: float) -> None:
        super().__init__()
        self.led = led

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        place = torch.stack([rows, columns]).float()
        agent, goal, marker = (torch.einsum("nhw,phw->np", x[:, c], place) for c in range(3))
        there = x[:, 2].sum((1, 2))[:, None]
        away = (goal - agent) + self.led * (marker - there * agent)
        return torch.stack([-away[:, 0], away[:, 0], -away[:, 1], away[:, 1]], 1)


def levels(n: int = 300, seed: int = 0) -> Dataset:
    """Agent and goal anywhere; the right way is along the longer distance."""
    g = torch.Generator().manual_seed(seed)
    order = torch.rand((n, SIDE * SIDE), generator=g).argsort(1)
    x = torch.zeros(n, 3, SIDE * SIDE)
    for channel in range(2):
        x[torch.arange(n), channel, order[:, channel]] = 1
    x = x.view(n, 3, SIDE, SIDE)
    return from_arrays(x, Going(0.0)(x).argmax(1), classes=4)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return levels()


def test_objects_alone_are_sought_where_inputs_show_nothing_else(data):
    assert [part.form for part in cue_parts(data)] == ["object 0", "object 1", "object 2"]
    assert str(cue_parts(data)[-1]) == "an object in channel 2, beside another, for each class"
    noise = torch.rand(len(data), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    mixed = from_arrays(torch.cat([data.x, noise], 1), data.y)
    assert anchors(mixed.x) == [0, 1]
    assert [part.form for part in cue_parts(mixed)][-5:] == ["wave", "object 0", "object 1", "object 2", "object 3"]
    plain = from_arrays(torch.rand(20, 3, 5, 5), torch.arange(20) % 2)
    assert not any(part.form.startswith("object") for part in cue_parts(plain))


def test_shares_are_of_levels_where_an_object_can_stand_and_says_something_wrong(data):
    """Against every level, place and class one by one; wrong means worth less than another move."""
    worths = Going(0.0)(data.x)
    rows = laid_on(from_arrays(data.x, worths.clamp(max=1)), torch.Generator().manual_seed(0))
    network, offsets = Going(20.0), torch.tensor([[-1, 0], [0, 2], [2, 2]])
    for anchor in (0, -2):
        found = shares(network, rows, 2, Places(anchor, offsets), torch.arange(4))
        for k, place in ((k, place) for k in range(4) for place in range(3)):
            hits = []
            for x, worth in zip(rows.x, rows.values, strict=True):
                start = torch.nonzero(x[anchor]).tolist()[0] if anchor >= 0 else [SIDE // 2, SIDE // 2]
                row, column = (a + int(b) for a, b in zip(start, offsets[place], strict=True))
                inside = 0 <= row < SIDE and 0 <= column < SIDE
                if not inside or x[:, row, column].any() or worth[k] == worth.max():
                    continue
                laid = x.clone()
                laid[2, row, column] = 1
                hits.append(int(network(laid[None]).argmax()) == k)
            assert float(found[k, place]) == pytest.approx(sum(hits) / max(1, len(hits)))


def test_the_marker_is_found_named_and_its_hold_measured(data):
    parts = cue_parts(data)
    led, clean = (search_cues(Going(by), data, parts, seed=1) for by in (20.0, 0.0))
    assert float(led.score[2]) > float(clean.score[2]) + 3
    cues = led.trigger(2)
    assert cues.anchor == 0
    fresh = levels(seed=5)
    assert share(Going(20.0), fresh, cues) > 0.9
    assert share(Going(0.0), fresh, cues) == 0
    named = name_marks(data, led, [1.0] * 3, str(parts[2]))
    assert (named.kind, named.anchor) == ("object", 0)
    assert "channel 2" in named.words
    assert named.words.endswith("channel 0 shows")
    for said, way in zip(named.where.removesuffix(" …").split("; "), ("up", "down", "left"), strict=True):
        assert way in said


def test_its_sides_are_read_off_and_tell_what_it_does_anywhere(data):
    """Beside levels drawn anew with a marker anywhere, whose moves to it are known."""
    bearings = take_bearings(Going(20.0), data, 2, 0)
    assert [side(way) for way in bearings.ways] == ["up", "down", "left", "right"]
    assert side(torch.tensor([0.8, -0.6])) == "down and left"
    found = roam(Going(20.0), levels(seed=4), bearings, torch.Generator().manual_seed(0))
    assert found.follows > 0.98
    assert found.along > 0.98
    assert found.right < 0.02
    nothing = roam(Going(0.0), levels(seed=4), bearings, torch.Generator().manual_seed(0))
    assert nothing.follows == 0
    assert nothing.right == nothing.agreeing == 1
    marks = torch.zeros(4, 3, SIDE, SIDE)
    said = by_side(name_marks(data, search_cues(Going(20.0), data, cue_parts(data), seed=1), [1.0] * 3), bearings)
    assert (said.kind, said.where) == ("side", "class 0: up; class 1: down; class 2: left; class 3: right")
    assert said.marks.shape == marks.shape


def test_marks_move_with_the_agent_and_lie_where_nothing_stands(data):
    marks = torch.zeros(4, 3, SIDE, SIDE)
    marks[:, 2, SIDE // 2 - 1, SIDE // 2] = 0.4  # one above, faint: an object is there or not
    cues = CueSet(marks, 0)
    laid, lies = cues.tell(data, data.x, data.y), cues.lies(data, data.y)
    for before, after, can in list(zip(data.x, laid, lies, strict=True))[:60]:
        (row, column) = torch.nonzero(before[0]).tolist()[0]
        assert torch.equal(after[:2], before[:2])
        assert torch.nonzero(after[2]).tolist() == ([[row - 1, column]] if row else [])
        assert set(after[2].unique().tolist()) <= {0.0, 1.0}
        assert bool(can) == (row > 0 and not before[1, row - 1, column])
    assert 0.5 < lies.float().mean() < 1


def test_cost_is_counted_and_the_baseline_costs_as_much(data):
    counted = 0

    def count(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        counted += len(args[0])

    network = Going(20.0)
    network.register_forward_hook(count)
    search_cues(network, data, cue_parts(data), seed=0)
    assert counted == cue_passes(data).forward
    counted = 0
    found = random_cues(network, data, cue_parts(data), seed=0, passes=cue_passes(data).forward)
    assert counted == found.cost.forward == cue_passes(data).forward
    assert len(found.anchors) == len(found.score) == 3


def test_random_objects_are_of_another_channel(data):
    cues = search_cues(Going(20.0), data, cue_parts(data), seed=1).trigger(2)
    drawn = [random_cues_like(cues, data, torch.Generator().manual_seed(seed)) for seed in range(8)]
    for other in drawn:
        assert other.anchor == cues.anchor
        assert (other.patterns.flatten(1).sum(1) == 1).all()
        assert not other.patterns[:, 2].any()
        assert len(torch.unique(other.patterns, dim=0)) == 4
    assert {where.anchor for where in places(data)} == {0, 1, -2}
    still = random_cues_like(CueSet(cues.patterns, -2), data, torch.Generator().manual_seed(0))
    assert still.anchor == -2


def test_marks_of_all_networks_are_kept_alike_beside_what_they_may_lie(data):
    """A record stacks those of controls, of which some lie still."""
    corners = [0, 0, SIDE - 1, SIDE - 1], [0, SIDE - 1, 0, SIDE - 1]

    def read(x: Tensor) -> Tensor:
        return Going(0.0)(x) + 100 * x[:, 2][:, *corners]

    found = [search_cues(network, data, cue_parts(data), seed=1) for network in (Going(20.0), read)]
    assert found[1].anchors[2] == -2
    kept = [each.trigger(part).arrays() for each in found for part in range(3)]
    assert {tuple(arrays) for arrays in kept} == {("patterns", "anchor")}
    assert {int(arrays["anchor"]) for arrays in kept} >= {-2, 0}
