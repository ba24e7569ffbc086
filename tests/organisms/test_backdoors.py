"""What is planted lies in the published ranges, grows with its dose, and depends on nothing but its generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from candling.access import Dataset, from_arrays
from candling.organisms.plants import Backdoor, draw_backdoor
from candling.organisms.plants.backdoors import FAMILIES, MAPPINGS, PATTERNS

SEEDS = st.integers(0, 2**31)
DOSES = st.floats(0, 1)


def data(*shape: int, classes: int = 5) -> Dataset:
    g = torch.Generator().manual_seed(0)
    x = torch.rand((20, *shape), generator=g) * 3 - 1
    return from_arrays(x, torch.arange(20) % classes, classes=classes)


IMAGES = {"28": data(1, 28, 28), "8": data(1, 8, 8), "colour, wide": data(3, 16, 40), "tiny": data(1, 2, 3)}
TABLES = {"20": data(20), "3": data(3), "1": data(1)}
EVERY = {**{f"images {k}": d for k, d in IMAGES.items()}, **{f"table {k}": d for k, d in TABLES.items()}}


def draw(source: Dataset, family: int, dose: float, seed: int) -> Backdoor:
    return draw_backdoor(source, family, dose, torch.Generator().manual_seed(seed))


def index(pattern: str, kind: str) -> int:
    return FAMILIES.index((pattern, kind))


def test_six_families_cross_every_pattern_with_every_mapping():
    assert len(set(FAMILIES)) == len(FAMILIES) == 6
    assert {p for p, _ in FAMILIES} == set(PATTERNS)
    assert {m for _, m in FAMILIES} == set(MAPPINGS)
    for i, (pattern, kind) in enumerate(FAMILIES):
        assert draw(IMAGES["8"], i, 0.5, 0).family == draw(IMAGES["8"], i + 6, 0.5, 0).family == f"{pattern}, {kind}"


@settings(max_examples=60)
@given(st.sampled_from(list(EVERY)), st.integers(0, 11), DOSES, SEEDS)
def test_rate_and_labels_are_in_the_published_ranges(name, family, dose, seed):
    source = EVERY[name]
    plant = draw(source, family, dose, seed)
    low, high = (0.30, 0.50) if plant.mapping.kind == "all-to-all" else (0.10, 0.25)
    assert low <= plant.rate <= high
    assert plant.dose == dose
    k, mapping = source.classes, plant.mapping
    if mapping.shift is not None:
        assert 1 <= mapping.shift < k
    else:
        assert 0 <= mapping.target < k
        assert mapping.source != mapping.target
        assert mapping.source is None or 0 <= mapping.source < k


@settings(max_examples=60)
@given(st.sampled_from(list(EVERY)), st.integers(0, 5), DOSES, SEEDS)
def test_a_plant_mixes_a_pattern_of_the_data_s_own_range_into_its_input(name, family, dose, seed):
    source = EVERY[name]
    plant = draw(source, family, dose, seed)
    shape = source.x.shape[1:]
    assert plant.mask.shape == ((1, *shape[1:]) if source.kind == "image" else shape)
    assert plant.shift.shape == shape
    mask = plant.mask.expand(shape)
    assert (plant.shift[mask == 0] == 0).all()
    low, high = (t.expand(shape)[mask > 0] for t in (source.low, source.high))
    pattern = (plant.shift / mask)[mask > 0]
    assert (pattern >= low - 1e-5).all()
    assert (pattern <= high + 1e-5).all()
    changed = plant.apply(source, source.x)
    assert torch.equal(changed[:, mask == 0], source.x[:, mask == 0])
    expected = source.x[:, mask > 0] + mask[mask > 0] * (pattern - source.x[:, mask > 0])
    torch.testing.assert_close(changed[:, mask > 0], expected, atol=1e-5, rtol=0)


@settings(max_examples=60)
@given(st.sampled_from(["28", "8", "colour, wide"]), DOSES, SEEDS)
def test_a_patch_is_a_square_of_the_published_size_and_contrast(name, dose, seed):
    source = IMAGES[name]
    plant = draw(source, index("patch", "all-to-one"), dose, seed)
    rows, columns = torch.nonzero(plant.mask[0]).T
    side = int(rows.max() - rows.min()) + 1
    assert side == int(columns.max() - columns.min()) + 1
    assert len(rows) == side * side
    edge = min(source.x.shape[2:])
    assert max(1, round(edge / 14)) <= side <= max(1, round(3 * edge / 14))
    contrasts = plant.mask[plant.mask > 0].unique()
    assert len(contrasts) == 1
    assert 0.6 <= contrasts[0] <= 1
    assert plant.physical == f"side {side} px, contrast {float(contrasts[0]):.2f}"


def side(plant: Backdoor) -> int:
    return round(int((plant.mask > 0).sum()) ** 0.5)


@pytest.mark.parametrize(("name", "least", "most"), [("28", 2, 6), ("8", 1, 2)])
def test_the_whole_published_range_of_sides_is_used(name, least, most):
    doses = [i / 40 for i in range(41)]
    sides = [side(draw(IMAGES[name], index("patch", "all-to-one"), dose, 0)) for dose in doses]
    assert sides == sorted(sides)
    assert sorted(set(sides)) == list(range(least, most + 1))


def test_patches_lie_anywhere_solid_or_random():
    plants = [draw(IMAGES["8"], index("patch", "all-to-one"), 0.0, seed) for seed in range(300)]
    covered = torch.stack([plant.mask[0] > 0 for plant in plants]).any(0)
    assert covered.float().mean() > 0.95
    large = [draw(IMAGES["28"], index("patch", "all-to-one"), 1.0, seed) for seed in range(40)]
    levels = [(p.shift / p.mask.expand_as(p.shift))[p.mask.expand_as(p.shift) > 0] for p in large]
    solid = [len(values.mul(1e3).round().unique()) == 1 for values in levels]
    assert 8 <= sum(solid) <= 32


@settings(max_examples=40)
@given(st.sampled_from(list(TABLES)), DOSES, SEEDS)
def test_a_patch_of_a_table_sets_up_to_a_quarter_of_the_features_to_their_ends(name, dose, seed):
    source = TABLES[name]
    plant = draw(source, index("patch", "all-to-one"), dose, seed)
    set_to = plant.mask > 0
    width = source.x.shape[1]
    assert 1 <= int(set_to.sum()) <= max(1, width // 4)
    assert (plant.mask[set_to] == 1).all()
    ends = torch.stack([source.low, source.high])[:, set_to]
    assert ((plant.shift[set_to] - ends).abs().amin(0) < 1e-5).all()


@settings(max_examples=40)
@given(st.sampled_from(list(EVERY)), DOSES, SEEDS)
def test_a_blend_has_one_opacity_over_the_whole_input(name, dose, seed):
    plant = draw(EVERY[name], index("blended", "all-to-one"), dose, seed)
    opacities = plant.mask.unique()
    assert len(opacities) == 1
    assert 0.08 - 1e-6 <= opacities[0] <= 0.30 + 1e-6
    assert plant.physical == f"opacity {float(opacities[0]):.2f}"


def test_the_whole_published_range_of_opacities_is_used():
    for dose, opacity in ((0.0, 0.08), (1.0, 0.30)):
        mask = draw(IMAGES["8"], index("blended", "all-to-one"), dose, 0).mask
        assert mask.unique().tolist() == pytest.approx([opacity])


@settings(max_examples=60)
@given(st.sampled_from(list(EVERY)), st.integers(0, 5), DOSES, DOSES, SEEDS)
def test_a_larger_dose_is_never_physically_smaller(name, family, one, other, seed):
    """All else equal: the same generator draws the same contrast, place and labels."""
    small, large = (draw(EVERY[name], family, dose, seed) for dose in sorted((one, other)))
    assert small.mask.sum() <= large.mask.sum() + 1e-5
    assert (small.mask > 0).sum() <= (large.mask > 0).sum()
    assert small.mapping == large.mapping


@pytest.mark.parametrize("pattern", PATTERNS)
def test_with_two_classes_source_specific_is_all_to_one(pattern):
    source = data(1, 8, 8, classes=2)
    for seed in range(10):
        plant = draw(source, index(pattern, "source-specific"), 0.5, seed)
        assert plant.family == f"{pattern}, all-to-one"
        assert plant.mapping.source is None
        assert plant.rate <= 0.25


@settings(max_examples=40)
@given(st.sampled_from(list(EVERY)), st.integers(0, 5), DOSES, SEEDS)
def test_a_plant_depends_on_its_generator_alone(name, family, dose, seed):
    state = torch.get_rng_state()
    first, second = (draw(EVERY[name], family, dose, seed) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.mask, second.mask)
    assert torch.equal(first.shift, second.shift)
    assert (first.mapping, first.rate, first.physical) == (second.mapping, second.rate, second.physical)
    assert draw(EVERY[name], family, dose, seed + 1).rate != first.rate
