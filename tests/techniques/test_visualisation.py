"""Feature visualisation on units whose cause is planted, and forced choice against chance, oracle and digits."""

from dataclasses import replace

import pytest
import torch
from test_sanity import TRAINED_ROWS, digit_images, trained_digits
from torch import Tensor, nn

from candling.access import observe
from candling.errors import InputError
from candling.techniques.locate.visualisation import (
    Drawing,
    embedding,
    forced_choice,
    pixels,
    unit_activations,
    visualise,
)

PLAIN = Drawing(jitter=0, l2=0, variation=0)


def templates(units: int = 4, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Units that are scalar products with patterns [units, 36] of mean 0 over images 6×6."""
    patterns = torch.randn((units, 36), generator=torch.Generator().manual_seed(seed))
    patterns -= patterns.mean(1, keepdim=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, units, bias=False)).requires_grad_(False)
    network[1].weight.copy_(patterns)
    return network, patterns


def noise_images(n: int = 300, seed: int = 1) -> Tensor:
    return torch.rand((n, 1, 6, 6), generator=torch.Generator().manual_seed(seed))


def test_exemplars_are_the_extremes_of_the_data():
    network, patterns = templates()
    data = noise_images()
    for unit in range(4):
        found = visualise(network, data, site="1", unit=unit, exemplars=3, drawing=replace(PLAIN, steps=1))
        scored = sorted((float((patterns[unit] * image.flatten()).sum()), row) for row, image in enumerate(data))
        assert found.top_rows.tolist() == [row for _, row in scored[::-1][:3]]
        assert found.bottom_rows.tolist() == [row for _, row in scored[:3]]
        assert torch.equal(found.top, data[found.top_rows])
        assert torch.equal(found.bottom, data[found.bottom_rows])
        assert found.seen == pytest.approx((scored[-1][0], scored[0][0]), rel=1e-4)


def test_a_drawing_of_a_linear_unit_is_its_weights_signs():
    """The optimum over images in range: the upper end where a weight is positive, the lower where it is negative."""
    network, patterns = templates()
    data = noise_images() * 3 - 1
    for unit in range(2):
        found = visualise(network, data, site="1", unit=unit, drawing=replace(PLAIN, steps=200))
        heavy = patterns[unit].abs() > 0.1
        rising = (patterns[unit] > 0)[heavy]
        middle = (data.min() + data.max()) / 2
        assert torch.equal((found.high.flatten() > middle)[heavy], rising)
        assert torch.equal((found.low.flatten() < middle)[heavy], rising)
        for image, drawn in zip((found.high, found.low), found.drawn, strict=True):
            assert data.min() <= image.min() <= image.max() <= data.max()
            assert float((patterns[unit] * image.flatten()).sum()) == pytest.approx(drawn, rel=1e-3, abs=1e-3)
        assert found.drawn[0] > found.seen[0] > found.seen[1] > found.drawn[1]


def test_each_regulariser_does_what_it_says():
    network, data = templates()[0], noise_images()

    def drawn(**changed: float) -> Tensor:
        return visualise(network, data, site="1", unit=0, drawing=replace(PLAIN, **changed)).high

    def roughness(image: Tensor) -> float:
        return float(image.diff(dim=1).square().sum() + image.diff(dim=2).square().sum())

    plain = drawn()
    assert roughness(drawn(variation=2.0)) < 0.5 * roughness(plain)
    assert drawn(l2=1.0).norm() < 0.8 * plain.norm()
    assert not torch.equal(drawn(jitter=1), plain)


def test_tables_have_no_neighbours_and_are_drawn_too():
    network = nn.Linear(3, 2)
    data = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
    found = visualise(nn.Sequential(network), data, site="0", unit=1)
    again = visualise(nn.Sequential(network), data, site="0", unit=1, drawing=Drawing(jitter=0, variation=0))
    torch.testing.assert_close(found.high, again.high)
    assert found.drawn[0] > found.drawn[1]


def test_a_units_activation_is_its_mean_over_positions():
    network, x = trained_digits(), digit_images()[0][:20]
    found, output = unit_activations(network, x, "2"), observe(network, x, ["2"]).activations["2"]
    for row in range(20):
        for unit in range(12):
            assert float(found[row, unit]) == pytest.approx(float(output[row, unit].double().mean()), abs=1e-5)


def test_same_seed_same_drawing_costs_are_counted_and_the_network_is_left_alone():
    rows: list[int] = []

    class Counted(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return super().forward(x)

    network = Counted(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2)).train()
    before, state = network.state_dict()["0.weight"].clone(), torch.get_rng_state()
    one, again, other = (
        visualise(network, noise_images(), site="1", unit=0, drawing=Drawing(steps=5), seed=s) for s in (1, 1, 2)
    )
    assert one.cost.forward + again.cost.forward + other.cost.forward == sum(rows)
    assert torch.equal(one.high, again.high)
    assert not torch.equal(one.high, other.high)
    assert torch.equal(network.state_dict()["0.weight"], before)
    assert all(p.grad is None for p in network.parameters())
    assert all(part.training for part in network.modules())
    assert torch.equal(torch.get_rng_state(), state)


# --- forced choice -------------------------------------------------------------------------------------------


def of_templates(units: int = 8) -> tuple[nn.Module, list, Tensor]:
    """The patterns are noise: a drawing that is kept smooth would not show them."""
    network, _ = templates(units)
    data, sharp = noise_images(600), replace(PLAIN, steps=64)
    return (
        network,
        [visualise(network, data[:300], site="1", unit=u, drawing=sharp) for u in range(units)],
        data[300:],
    )


def test_references_tell_planted_units_and_those_of_another_unit_do_not():
    network, shown, held_out = of_templates()
    found = forced_choice(network, shown, held_out)
    assert found.units == tuple(("1", u) for u in range(8))
    assert found.drawings.mean() > 0.85
    assert found.exemplars.mean() > 0.7
    assert found.both.mean() > 0.85
    for blind in (found.none, found.others):  # patterns are nearly at right angles
        assert blind.mean() < 0.65


def test_an_oracle_is_always_right_and_its_opposite_always_wrong():
    network, shown, held_out = of_templates(2)
    turned = [replace(v, high=v.low, low=v.high, top=v.bottom, bottom=v.top) for v in shown]
    for sight, right in ((shown, 1.0), (turned, 0.0)):
        # Two units of one axis: the network's own view of the one unit is the sign of its activation.
        for v in sight:
            own = forced_choice(network, [v, v], held_out, space=lambda x, u=v.unit: network(x)[:, [u]])
            assert own.exemplars.tolist() == [right, right]
            assert own.drawings.tolist() == [right, right]


def test_questions_by_a_loop():
    """Accuracy against every pair of the two tails, which the drawn pairs sample."""
    network, shown, held_out = of_templates(3)
    found = forced_choice(network, shown, held_out, pairs=4000, tail=0.1)
    vectors = held_out.flatten(1).double()
    centre = vectors.mean(0)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float((a - centre) @ (b - centre) / ((a - centre).norm() * (b - centre).norm()))

    for i, v in enumerate(shown):
        activation = network(held_out)[:, v.unit]
        order = activation.argsort(descending=True).tolist()
        score = {}
        for row in order[:30] + order[-30:]:
            likes = [
                sum(cosine(vectors[row], e.flatten().double()) for e in examples) / len(examples)
                for examples in (v.top, v.bottom)
            ]
            score[row] = likes[0] - likes[1]
        right = [score[a] > score[b] for a in order[:30] for b in order[-30:]]
        assert float(found.exemplars[i]) == pytest.approx(sum(right) / len(right), abs=0.04)


@pytest.mark.parametrize(
    "changed", [{"tail": 0.0}, {"tail": 0.6}, {"held_out": noise_images(5, 9)}, {"visualisations": []}]
)
def test_what_does_not_fit_is_refused(changed):
    network, shown, held_out = of_templates(2)
    given = {"visualisations": shown, "held_out": held_out, **changed}
    with pytest.raises(InputError):
        forced_choice(network, **given)


def test_an_exemplar_is_no_question():
    network, shown, held_out = of_templates(2)
    with pytest.raises(InputError, match="held out"):
        forced_choice(network, shown, torch.cat([held_out, shown[1].top[:1]]))


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"site": "nowhere"}, "site"),
        ({"unit": 4}, "unit"),
        ({"unit": -1}, "unit"),
        ({"exemplars": 200}, "data"),
        ({"data": torch.zeros((30, 1, 6, 6), dtype=torch.long)}, "data"),
    ],
)
def test_units_and_data_that_do_not_fit_are_refused(changed, code):
    given = {"data": noise_images(), "site": "1", "unit": 0, **changed}
    with pytest.raises(InputError) as raised:
        visualise(templates()[0], **given)
    assert raised.value.code == code


def test_on_digits_held_out_units_are_told_ten_points_better_than_without_reference():
    """Every other unit of the last convolution: no setting was chosen on them (see benchmarks)."""
    network, x = trained_digits(), digit_images()[0]
    shown = [visualise(network, x[:TRAINED_ROWS], site="5", unit=u) for u in range(1, 16, 2)]
    for space in (pixels, embedding(network, "1")):
        found = forced_choice(network, shown, x[TRAINED_ROWS:], space=space)
        blind = max(float(found.none.nanmean()), float(found.others.nanmean()), 0.5)
        assert float(found.both.nanmean()) > blind + 0.1
        assert float(found.exemplars.nanmean()) > blind + 0.1
