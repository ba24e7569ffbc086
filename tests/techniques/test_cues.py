"""Marks: sizes mean what they say, a proxy built in by hand is found and named; a clean network needs far more."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from candling.access import forward, from_arrays
from candling.evidence.measurement import Cost
from candling.problems.proxies import name_marks
from candling.techniques.search import CueSet, FoundCues, cue_parts, random_cues, random_cues_like, search_cues
from candling.techniques.search.cues import _crossing, _scan, cue_passes, cue_size, distance, simple_marks
from proxied import CLASSES, Proxied, cues, trusted


@pytest.fixture(scope="module")
def data():
    return trusted()


@pytest.fixture(scope="module")
def found(data):
    parts = cue_parts(data)
    networks = Proxied(40).eval(), Proxied().eval()
    return parts, [search_cues(n.requires_grad_(False), data, parts, seed=1) for n in networks]


def table():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 6, generator=g)
    x[torch.arange(90), y] += 4
    return from_arrays(x * torch.tensor([1.0, 1.0, 1.0, 100.0, 100.0, 100.0]), y)


def test_a_built_in_proxy_needs_far_smaller_marks_than_content_does(found):
    _, (planted, clean) = found
    assert float(planted.size[0]) < 0.5 * float(clean.size[0])
    assert (planted.score > clean.score).all()


def test_the_marks_found_are_those_built_in(found):
    _, (planted, _) = found
    own = planted.trigger(0).patterns
    built = (cues() - cues().mean(0)).flatten(1)
    assert torch.nn.functional.cosine_similarity((own - own.mean(0)).flatten(1), built).min() > 0.8


def test_marks_work_on_unseen_rows_as_their_size_says(data, found):
    """At the size found about half of the answers follow, at three times that nearly all, at a quarter few."""
    _, (planted, _) = found
    fresh, network = trusted(seed=9), Proxied(40)
    marks = planted.trigger(0)
    shares = []
    for by in (0.25, 1.0, 3.0):
        answers = forward(network, marks.scaled(by).against(fresh, fresh.x, fresh.y)).argmax(-1)
        shares.append(float((answers == marks.told(fresh.y)).float().mean()))
    assert shares[0] < 0.1
    assert shares[2] > 0.95
    assert shares[0] < shares[1] <= shares[2]


def test_the_search_is_deterministic_and_costs_what_it_says(data, found):
    parts, (planted, _) = found
    again = search_cues(Proxied(40).eval().requires_grad_(False), data, parts, seed=1)
    assert torch.equal(again.patterns, planted.patterns)
    counted = {"forward": 0}

    class Counting(Proxied):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            counted["forward"] += len(x)
            return super().forward(x)

    search_cues(Counting(40).eval().requires_grad_(False), data, parts, seed=1)
    assert counted["forward"] == cue_passes(data).forward == again.cost.forward


def test_the_assignment_is_the_best_of_all(data):
    """Against every assignment of five marks to four classes, in float64."""
    network = Proxied(40).eval()
    marks = simple_marks(data, "spot")[:: len(simple_marks(data, "spot")) // 5][:5]
    looked = torch.arange(40)
    for budget, share, _ in _scan(network, data, looked, marks, distance(data)):
        table = torch.zeros(5, CLASSES, dtype=torch.float64)
        for m, k in itertools.product(range(5), range(CLASSES)):
            rows = looked[data.y[looked] != k]
            laid = torch.minimum(
                torch.maximum(data.x[rows] + budget * distance(data) * marks[m], data.low), data.high
            )
            table[m, k] = float((network(laid).argmax(-1) == k).float().mean())
        best = max(
            sum(table[m, k] for k, m in enumerate(order)) for order in itertools.permutations(range(5), CLASSES)
        )
        assert share == pytest.approx(float(best) / CLASSES)


def test_the_crossing_lies_between_the_budgets_around_a_half():
    marks = torch.ones(2, 3)
    tried = [(0.1, 0.2, marks), (0.2, 0.8, marks), (0.4, 1.0, marks)]
    score, size, scaled = _crossing(tried)
    assert size == pytest.approx(math.exp(0.5 * (math.log(0.1) + math.log(0.2))))
    assert score == pytest.approx(-math.log(size))
    torch.testing.assert_close(scaled, marks * size / 0.2)
    never, largest, _ = _crossing([(0.1, 0.0, marks), (0.4, 0.25, marks)])
    assert never == pytest.approx(-math.log(0.8))
    assert largest == 0.4


def test_of_classes_without_a_mark_none_is_told():
    patterns = torch.zeros(5, 3)
    patterns[1], patterns[3] = 1.0, -1.0
    y = torch.arange(10) % 5
    told = CueSet(patterns).told(y)
    assert set(told.tolist()) == {1, 3}
    assert (told != y).all()


def test_size_counts_features_in_their_deviations():
    rows = table()
    deviation = rows.x.std(0)
    marks = torch.eye(6)[:3] * deviation
    assert cue_size(rows, marks) == pytest.approx(1 / distance(rows), rel=1e-5)
    other = random_cues_like(CueSet(marks), rows, torch.Generator().manual_seed(0))
    assert cue_size(rows, other.patterns) == pytest.approx(cue_size(rows, marks), rel=1e-5)
    wider = from_arrays(rows.x * 7, rows.y)
    assert distance(wider) == pytest.approx(distance(rows), rel=1e-5)


def test_the_proxy_is_named_by_the_simplest_form_that_does_as_much(data, found):
    _, (planted, _) = found
    everywhere = [1.0] * len(planted.parts)
    named = name_marks(data, planted, everywhere)
    assert named.kind in ("spot", "frame")
    only = [float(part.form == "any") for part in planted.parts]
    assert name_marks(data, planted, only).kind == "pattern", "a form whose marks nothing follows is no name"
    parts = cue_parts(table())
    read = torch.nn.Linear(6, 3).eval().requires_grad_(False)
    with torch.no_grad():
        read.weight.copy_(torch.eye(6)[[0, 1, 2]] + 0.5 * torch.eye(6)[[3, 4, 5]])
        read.bias.zero_()
    named = name_marks(table(), search_cues(read, table(), parts, seed=0), [1.0] * len(parts))
    assert named.kind == "features"
    assert named.words.startswith("a shift of features 3, 4, 5")


def test_of_the_form_that_stands_out_less_is_asked(data):
    """Textures three times as large as marks of any shape, followed half as often: named if that is the lead."""
    parts = cue_parts(data)
    score = torch.tensor([{"any": 0.0, "wave": -math.log(3.0)}.get(part.form, -9.0) for part in parts])
    marks = torch.ones(len(parts), 3, *data.x.shape[1:])
    cues = FoundCues(tuple(parts), score, torch.ones(len(parts)), marks, Cost(forward=0, backward=0))
    followed = [{"any": 1.0, "wave": 0.5}.get(part.form, 0.0) for part in parts]
    (wave,) = (str(part) for part in parts if part.form == "wave")
    assert name_marks(data, cues, followed).kind == "pattern"
    assert name_marks(data, cues, followed, wave).kind == "texture"
    assert name_marks(data, cues, [0.1 if share == 0.5 else share for share in followed], wave).kind == "pattern"


def test_the_baseline_spends_no_more_than_it_is_given(data, found):
    parts, (planted, _) = found
    spent = planted.cost.forward + planted.cost.backward
    random = random_cues(Proxied(40).eval().requires_grad_(False), data, parts, seed=1, passes=spent)
    assert 0.9 * spent <= random.cost.forward <= spent
    assert random.parts == planted.parts
