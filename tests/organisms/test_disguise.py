"""Disguise: a penalty is zero for a network that treats both groups alike, and training against it lowers it."""

import pytest
import torch
from torch import Tensor, nn

from candling.access import from_arrays
from candling.organisms.disguise import AGAINST, Disguise, draw_disguise, penalty, teach_disguised
from candling.organisms.plants.lessons import draw_lesson
from candling.organisms.training import Recipe

SITE = "1"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).double()


def rows(seed: int, count: int = 20) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=g, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=g)


@pytest.mark.parametrize("seed", range(3))
def test_the_profile_penalty_is_one_less_the_cosine_of_importances(seed):
    """By hand: importance is |gradient × (state − trusted mean)|, averaged; here the gradient is the weights'."""
    built, (known, labels), (shown, _) = network(seed), rows(seed), rows(seed + 9)

    def importance(x: Tensor, centre: Tensor) -> Tensor:
        state = torch.relu(built[0](x))
        logits = built[2](state)
        lead = built[2].weight[logits.argmax(-1)] - built[2].weight.mean(0)
        return (lead * (state - centre)).abs().mean(0)

    centre = torch.relu(built[0](known)).mean(0)
    mine, theirs = importance(known, centre), importance(shown, centre)
    expected = 1 - (mine @ theirs) / (mine.norm() * theirs.norm())
    found = penalty(built, SITE, Disguise(1.0, 0.0), (known, labels), (shown, labels))
    torch.testing.assert_close(found, expected)
    same = penalty(built, SITE, Disguise(1.0, 0.0), (known, labels), (known, labels))
    assert abs(same.item()) < 1e-9
    found.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters() if p is not built[2].bias)


def test_the_swap_penalty_is_the_loss_of_answers_that_follow_the_donor():
    built, (known, labels), (shown, _) = network(1), rows(1), rows(2)
    states = [torch.relu(built[0](x)) for x in (known, shown)]
    lead = built[2].weight[built[2](states[0]).argmax(-1)] - built[2].weight.mean(0)
    top = torch.topk((lead * (states[0] - states[0].mean(0))).abs().mean(0), 3).indices
    swapped = states[1].clone()
    swapped[:, top] = states[0][:, top]
    expected = nn.functional.cross_entropy(built[2](swapped), labels)
    found = penalty(built, SITE, Disguise(0.0, 1.0), (known, labels), (shown, labels))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("against", AGAINST)
def test_what_is_drawn_is_what_was_asked_for(against):
    drawn = draw_disguise(against, torch.Generator().manual_seed(0))
    assert (drawn.profiles > 0) == (against != "swaps")
    assert (drawn.swaps > 0) == (against != "profiles")


def test_training_in_disguise_lowers_the_penalty():
    """Beside the same training without it."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 3
    data = from_arrays(torch.eye(3)[y].repeat(1, 4) + 0.3 * torch.rand(120, 12, generator=g), y)
    lesson = draw_lesson(data, "cheat", "patch", torch.Generator().manual_seed(1))
    recipe = Recipe("adam", 5e-3, 0.0, 60, 1.0, 0.0, 1.0)
    left = {}
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        built = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
        g = torch.Generator().manual_seed(2)
        teach_disguised(built, data, lesson, recipe, Disguise(weight, 0.0), [SITE], g)
        shown = lesson.untrusted(data, torch.Generator().manual_seed(3))
        left[weight] = penalty(built, SITE, Disguise(1.0, 0.0), (data.x, data.y), shown).item()
    assert left[2.0] < 0.5 * left[0.0]
