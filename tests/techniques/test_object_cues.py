"""A marker beside the agent: found and named where a hand-built policy follows it; nothing like it in a clean one."""

import pytest
import torch
from torch import Tensor, nn

from candling.access import Dataset, forward, from_arrays
from candling.organisms.plants.shortcuts import draw_shortcut
from candling.problems.foreseeing import share
from candling.problems.proxies import name_marks
from candling.techniques.search import CueSet, cue_parts, search_cues
from candling.techniques.search.cues import cue_passes, object_marks

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


def test_objects_are_sought_in_every_channel_where_some_stand_alone(data):
    assert [str(part) for part in cue_parts(data)][-1] == "an object in channel 2, beside another, for each class"
    assert [part.form for part in cue_parts(data)][-3:] == ["object 0", "object 1", "object 2"]
    noise = from_arrays(torch.rand(20, 3, 5, 5), torch.arange(20) % 2)
    assert not any(part.form.startswith("object") for part in cue_parts(noise))
    marks = object_marks(data, 2)
    assert marks.shape == (24, 3, 5, 5)
    assert torch.equal(marks.sum((1, 2, 3)), torch.ones(24))


def test_the_marker_is_found_named_and_its_hold_measured(data):
    parts = [part for part in cue_parts(data) if part.form == "object 2"]
    led, clean = (search_cues(Going(by), data, parts, seed=1) for by in (20.0, 0.0))
    assert float(led.score[0]) > float(clean.score[0]) + 0.5
    cues = led.trigger(0)
    assert cues.anchor == 0
    fresh = levels(seed=5)
    laid, told = cues.scaled(2.0).against(fresh, fresh.x, fresh.y), cues.told(fresh.y)
    inside = (laid != fresh.x).flatten(1).any(1)  # none beyond the edge
    assert inside.float().mean() > 0.5
    assert float((forward(Going(20.0), laid).argmax(1) == told)[inside].float().mean()) > 0.9
    assert share(Going(20.0), fresh, cues.scaled(2.0)) > 0.5
    assert share(Going(0.0), fresh, cues.scaled(2.0)) < 0.1
    named = name_marks(data, led, [1.0], str(parts[0]))
    assert (named.kind, named.anchor) == ("object", 0)
    assert "channel 2" in named.words
    assert named.words.endswith("channel 0 shows")
    assert [said.split()[-1] for said in named.where.removesuffix(" …").split("; ")] == ["up", "down", "left"]


def test_marks_move_with_the_agent(data):
    marks = torch.zeros(4, 3, SIDE, SIDE)
    marks[:, 2, SIDE // 2 - 1, SIDE // 2] = 1  # one above
    laid = CueSet(marks, 0).tell(data, data.x, data.y)
    for before, after in zip(data.x[:40], laid[:40], strict=True):
        (row, column) = torch.nonzero(before[0]).tolist()[0]
        assert torch.equal(after[:2], before[:2])
        assert torch.nonzero(after[2]).tolist() == ([[row - 1, column]] if row else [])


def test_cost_is_counted_and_plants_lie_in_an_empty_channel(data):
    counted = 0

    def count(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal counted
        counted += len(args[0])

    network = Going(20.0)
    network.register_forward_hook(count)
    search_cues(network, data, cue_parts(data), seed=0)
    assert counted == cue_passes(data).forward
    plant = draw_shortcut(data, 0, 0.5, torch.Generator().manual_seed(0))
    assert plant.family == "object"
    assert plant.anchor in (0, 1)
    laid = plant.tell(data, data.x, data.y)
    assert torch.equal(laid[:, :2], data.x[:, :2])
    assert float(laid[:, 2].max()) == pytest.approx(0.75)
    assert forward(network, laid).shape == (len(data), 4)
