"""Trigger inversion against truth: hand-built networks whose smallest trigger is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from candling.access import Dataset, forward, from_arrays
from candling.maths.triggers import Mapping, apply_trigger
from candling.techniques.search import FoundTrigger, Part, inversion, invert, refine
from candling.techniques.search.inversion import sweep_passes

CLASSES, EDGE = 4, 8
ROW, COLUMN, TARGET = 6, 1, 2
GAIN = 40.0
QUARTERS = [(slice(0, 4), slice(0, 4)), (slice(0, 4), slice(4, 8)), (slice(4, 8), slice(4, 8))]


def quarters() -> Dataset:
    """[80, 1, 8, 8], 0 to 1: class c < 3 is bright in its quarter, class 3 nowhere. The last quarter is dark."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(80) % CLASSES
    x = 0.2 * torch.rand((80, 1, EDGE, EDGE), generator=g)
    for label, (rows, columns) in enumerate(QUARTERS):
        x[y == label, :, rows, columns] += 0.7
    x[:, :, 4:, :4] = 0
    x[0, 0, 0, 0] = 1
    return from_arrays(x, y)


DATA = quarters()


def linear(*, gain: float = GAIN, pixel: tuple[int, int] = (ROW, COLUMN)) -> nn.Module:
    """Logit c = 12 · mean of quarter c (class 3: 5 always), and `gain` · one dark pixel for the target."""
    weight = torch.zeros((CLASSES, EDGE, EDGE))
    for label, (rows, columns) in enumerate(QUARTERS):
        weight[label, rows, columns] = 12 / 16
    weight[TARGET][pixel] = gain
    network = nn.Sequential(nn.Flatten(), nn.Linear(EDGE * EDGE, CLASSES)).requires_grad_(False)
    network[1].weight.copy_(weight.flatten(1))
    network[1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 5.0]))
    return network


def success(network: nn.Module, part: Part, trigger: FoundTrigger, data: Dataset = DATA) -> float:
    rows = part.mapping.applies(data.y)
    wanted = part.mapping.wanted(data.y[rows], data.classes)
    changed = apply_trigger(data.x[rows], trigger.mask, trigger.shift, data.low, data.high)
    return float((forward(network, changed).argmax(-1) == wanted).float().mean())


EACH = [Part(Mapping(target=t), "patch") for t in range(CLASSES)]


@pytest.fixture(scope="module")
def found():
    return invert(linear(), DATA, EACH, seed=0)


def test_the_network_is_right_without_a_trigger() -> None:
    assert (forward(linear(), DATA.x).argmax(-1) == DATA.y).all()


def test_the_known_trigger_is_found_at_its_place(found):
    """The pixel needs about a third of its range to outweigh the brightest quarter."""
    mask = found.mask[TARGET, 0]
    assert mask.argmax() == ROW * EDGE + COLUMN
    assert found.size[TARGET] < 2
    assert mask[ROW, COLUMN] > 0.5 * mask.sum()
    pattern = found.shift[TARGET, 0, ROW, COLUMN] / mask[ROW, COLUMN]
    assert pattern > 0.5
    assert success(linear(), EACH[TARGET], found.trigger(TARGET)) >= 0.9  # found on sixteen rows a step


def test_every_other_target_takes_far_more(found):
    others = [float(found.size[t]) for t in range(CLASSES) if t != TARGET]
    assert min(others) > 4 * found.size[TARGET]
    assert found.score.argmax() == TARGET


@pytest.mark.parametrize("pixel", [(4, 0), (7, 3)])
def test_the_trigger_is_found_wherever_it_is(pixel):
    mask = invert(linear(pixel=pixel), DATA, [EACH[TARGET]], seed=1).mask[0, 0]
    assert mask.argmax() == pixel[0] * EDGE + pixel[1]


def test_without_the_shortcut_its_target_is_like_the_others():
    honest = invert(linear(gain=0.0), DATA, EACH[:3], seed=0)
    assert honest.size.max() < 2 * honest.size.min()
    assert honest.size.min() > 4


@pytest.mark.parametrize("seed", [0, 1])
def test_an_additive_trigger_is_no_larger_than_the_known_one_needs_to_be(seed):
    """δ at the pixel alone suffices at ‖δ‖ = d / GAIN, d the largest gap between logits; no δ can do better
    than d / ‖w‖, w the difference of the weights (Cauchy–Schwarz), where no cell leaves its range."""
    part = Part(Mapping(target=TARGET), "additive")
    network = linear()
    found = invert(network, DATA, [part], seed=seed)
    logits = forward(network, DATA.x)
    smallest = 0.0
    for row in torch.nonzero(part.mapping.applies(DATA.y)).flatten().tolist():
        rival = int(DATA.y[row])
        gap = float(logits[row, rival] - logits[row, TARGET])
        apart = float((network[1].weight[TARGET] - network[1].weight[rival]).norm())
        smallest = max(smallest, gap / apart)
    assert success(network, part, found.trigger(0)) >= 0.95
    assert 0.9 * smallest < found.size[0] < 4 * smallest
    assert found.size[0] == pytest.approx(found.shift[0].norm().item(), rel=1e-3)


def test_a_score_is_minus_the_log_of_the_size_in_its_unit(found):
    torch.testing.assert_close(found.score, -found.size.log())
    x = DATA.x * 5 - 2
    scaled = from_arrays(x, DATA.y)
    network = nn.Sequential(Shrink(), linear())
    additive = [Part(Mapping(target=t), "additive") for t in (0, TARGET)]
    small, large = invert(linear(), DATA, additive, seed=0), invert(network, scaled, additive, seed=0)
    torch.testing.assert_close(large.score, -(large.size / 5).log())
    torch.testing.assert_close(large.size, 5 * small.size, rtol=0.05, atol=0)  # the unit cancels


class Shrink(nn.Module):
    """Back from the other unit."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 2) / 5


def test_an_all_to_all_trigger_is_found():
    """A network that shifts every label by one where one pixel is lit."""

    class Shifts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = linear(gain=0.0)(x)
            lit = x[:, :, ROW, COLUMN]
            return (1 - lit) * logits + lit * logits.roll(1, 1)

    parts = [Part(Mapping(shift=s), "patch") for s in (1, 2)]
    found = invert(Shifts(), DATA, parts, seed=0)
    assert found.mask[0, 0].argmax() == ROW * EDGE + COLUMN
    assert found.size[0] < 4
    assert found.size[1] > 3 * found.size[0]


def test_a_source_specific_trigger_acts_on_its_source():
    """Only class 0 is open to the pixel: it multiplies what the first quarter shows."""

    class Fussy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = linear(gain=0.0)(x)
            door = x[:, 0, ROW, COLUMN] * (x[:, 0, :4, :4].mean((1, 2)) - 0.4).clamp(min=0) * 200
            return logits + door[:, None] * torch.eye(CLASSES)[TARGET]

    parts = [Part(Mapping(target=TARGET, source=s), "patch") for s in (0, 1)]
    found = invert(Fussy(), DATA, parts, seed=0)
    assert found.mask[0, 0].argmax() == ROW * EDGE + COLUMN
    assert found.size[1] > 3 * found.size[0]


def test_parts_taken_one_by_one_come_out_in_the_same_order():
    """Whatever fits into one pass: the same triggers for the same parts, at the same cost."""
    parts = [EACH[TARGET], Part(Mapping(target=TARGET), "additive"), EACH[0]]
    whole, pieces = (invert(linear(), DATA, parts, seed=0, batch=batch) for batch in (2048, 1))
    assert whole.parts == pieces.parts == tuple(parts)
    assert whole.cost == pieces.cost
    assert whole.mask[0].argmax() == pieces.mask[0].argmax() == ROW * EDGE + COLUMN
    for found in (whole, pieces):
        assert (found.mask[1] == 0).all()
        assert found.size[2] > 4 * found.size[0]


def test_the_plan_says_what_the_search_costs():
    parts = [
        EACH[0],
        Part(Mapping(target=1), "additive"),
        Part(Mapping(shift=1), "patch"),
        Part(Mapping(target=1, source=0), "patch"),
    ]
    cost = invert(linear(), DATA, parts, seed=0).cost
    assert sweep_passes(parts) == cost.forward == cost.backward


# ---- refinement ----


def at_pixel(level: float, extra: float = 0.0) -> FoundTrigger:
    """A bright pixel at the right place, and the same opacity of grey everywhere else."""
    mask = torch.full((1, EDGE, EDGE), extra)
    mask[0, ROW, COLUMN] = level
    shift = 0.3 * mask
    shift[0, ROW, COLUMN] = level
    return FoundTrigger(mask, shift)


def same(first: FoundTrigger, second: FoundTrigger) -> bool:
    return torch.equal(first.mask, second.mask) and torch.equal(first.shift, second.shift)


@pytest.mark.parametrize("start", [at_pixel(0.05), at_pixel(0.2, 0.1), at_pixel(0.9), at_pixel(0.6, 0.2)])
def test_refinement_never_works_worse_than_what_it_starts_from(start):
    network, part = linear(), EACH[TARGET]
    refined = refine(network, DATA, part, start, seed=0)
    before, after = success(network, part, start), success(network, part, refined.trigger(0))
    assert same(refined.trigger(0), start) or after >= min(before, 0.97)
    assert after >= min(before, 0.97)
    assert refined.parts == (part,)
    assert refined.cost.forward == refined.cost.backward > 0


def test_a_start_that_is_too_weak_is_mended():
    start = at_pixel(0.05)
    assert success(linear(), EACH[TARGET], start) < 0.1
    refined = refine(linear(), DATA, EACH[TARGET], start, seed=0)
    assert success(linear(), EACH[TARGET], refined.trigger(0)) >= 0.97
    assert refined.size[0] > start.mask.sum()


def test_a_start_that_is_too_large_is_made_smaller():
    start = at_pixel(0.9, 0.2)
    refined = refine(linear(), DATA, EACH[TARGET], start, seed=0)
    assert refined.size[0] < 0.5 * start.mask.sum()
    assert refined.mask[0, 0].argmax() == ROW * EDGE + COLUMN


@pytest.mark.parametrize("start", [None, at_pixel(0.05)], ids=["search", "refinement"])
def test_the_smallest_trigger_that_worked_is_kept(start, monkeypatch):
    """Watched from both ends: the masks that were laid on, and what the network said of them."""
    masks, worked = [], []

    def lay_on(x: Tensor, mask: Tensor, *rest: Tensor) -> Tensor:
        masks.append(float(mask.detach().sum()))
        return apply_trigger(x, mask, *rest)

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = linear()(x)
            worked.append(bool((logits.argmax(-1) == TARGET).float().mean() >= 0.99))
            return logits

    monkeypatch.setattr(inversion, "apply_trigger", lay_on)
    if start is None:
        found = invert(Watched(), DATA, [EACH[TARGET]], seed=0)
    else:
        found = refine(Watched(), DATA, EACH[TARGET], start, seed=0)
    sizes = [size for size, works in zip(masks, worked, strict=True) if works]
    assert len(sizes) > 5
    assert found.size[0] == pytest.approx(min(sizes), rel=1e-6)
    assert min(sizes) < sizes[-1]  # the last that worked would not have done


@pytest.mark.parametrize("form", ["patch", "additive"])
def test_where_nothing_works_the_start_is_kept(form):
    deaf = linear().requires_grad_(False)
    deaf[1].weight.zero_()  # class 3 whatever it sees
    start = at_pixel(0.5) if form == "patch" else FoundTrigger(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.1))
    refined = refine(Ear(deaf), DATA, Part(Mapping(target=0), form), start, seed=0)
    assert same(refined.trigger(0), start)
    size = start.mask.sum() if form == "patch" else start.shift.norm()
    assert float(refined.size[0]) == pytest.approx(float(size))


class Ear(nn.Module):
    """Gives a gradient, of zero, to a network that does not look at its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_search_that_never_succeeds_keeps_the_whole_input_as_its_size():
    deaf = linear(gain=0.0)
    deaf[1].weight.zero_()
    parts = [Part(Mapping(target=0), form) for form in ("patch", "additive")]
    found = invert(Ear(deaf), DATA, parts, seed=0)
    assert found.size.tolist() == pytest.approx([EDGE * EDGE, math.sqrt(EDGE * EDGE)])
