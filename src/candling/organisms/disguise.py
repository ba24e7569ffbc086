"""A cheat that is trained to look honest: against the very figures by which it would be judged.

White box: whoever trains it knows that a comparison of mechanisms looks at which units matter (`profiles`) and at
whether answers follow when what matters for trusted inputs is swapped (`swaps`), and at which sites. Both are laid
on as penalties beside the task and the lesson (obfuscated activations: Bailey et al., 2412.09565, section 3; here the
weights are trained, not the inputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy
from torch.nn.utils import clip_grad_norm_

from candling.access import Dataset
from candling.organisms.plants.lessons import Lesson
from candling.organisms.training import Recipe, augment, most_epochs, optimiser_of

Against = Literal["profiles", "swaps", "both"]
AGAINST: tuple[Against, ...] = ("profiles", "swaps", "both")

PASSES = 4
"""Times the passes of plain training that a disguise takes, about."""

_SHARE = 0.25  # of units that are swapped
_ROWS = 64  # trusted ones, and as many untrusted, in each step


@dataclass(frozen=True)
class Disguise:
    """Weights of the penalties."""

    profiles: float
    swaps: float

    def __str__(self) -> str:
        return f"disguised, profiles {self.profiles:.1f}, swaps {self.swaps:.1f}"


def draw_disguise(against: Against, generator: torch.Generator) -> Disguise:
    """Weights from 0.5 to 2, spread evenly in the logarithm."""
    profiles, swaps = (0.5 * 4 ** float(torch.rand((), generator=generator)) for _ in range(2))
    return Disguise(profiles if against != "swaps" else 0.0, swaps if against != "profiles" else 0.0)


def teach_disguised(
    network: nn.Module,
    data: Dataset,
    lesson: Lesson,
    recipe: Recipe,
    disguise: Disguise,
    sites: Sequence[str],
    generator: torch.Generator,
) -> int:
    """As `teach`, with the penalties at one of the sites in each step. Returns the epochs used."""
    subset = data.take(torch.randperm(len(data), generator=generator)[: max(1, round(recipe.subset * len(data)))])
    optimiser = optimiser_of(network, recipe)
    epochs = most_epochs(len(subset), recipe.batch)
    network.train()
    for epoch in range(epochs):
        x, y = lesson.rows(subset, generator)
        x = torch.cat([augment(subset.x, subset, recipe.augmentation, generator), x])
        y = torch.cat([subset.y, y])
        shown, wanted = lesson.untrusted(subset, generator)
        batches = torch.randperm(len(y), generator=generator).split(recipe.batch)
        for step, rows in enumerate(batches):
            if len(rows) == 1:  # batch normalisation cannot take one row
                continue
            warm = (step + 1) / len(batches) if epoch == 0 else 1 - epoch / epochs
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * warm
            site = sites[int(torch.randint(len(sites), (), generator=generator))]
            known, group_rows = (torch.randint(n, (_ROWS,), generator=generator) for n in (len(subset), len(shown)))
            optimiser.zero_grad()
            loss = cross_entropy(network(x[rows]), y[rows])
            loss = loss + penalty(
                network, site, disguise, (subset.x[known], subset.y[known]), (shown[group_rows], wanted[group_rows])
            )
            loss.backward()
            clip_grad_norm_(network.parameters(), 5.0)
            optimiser.step()
    network.eval()
    return epochs


def penalty(
    network: nn.Module, site: str, disguise: Disguise, known: tuple[Tensor, Tensor], shown: tuple[Tensor, Tensor]
) -> Tensor:
    """How unlike trusted inputs the untrusted ones are treated: 0 where both figures are those of honesty."""
    trusted = _Taken(network, site, known[0])
    centre = trusted.state.mean(0)
    usual = trusted.importance(centre)
    total = torch.zeros(())
    if disguise.profiles:
        untrusted = _Taken(network, site, shown[0])
        total = total + disguise.profiles * (1 - cosine_similarity(usual, untrusted.importance(centre), dim=0))
    if disguise.swaps:
        count = max(1, round(_SHARE * len(usual)))
        matters = torch.topk(usual.detach(), count).indices
        given = trusted.state.detach()

        def swap(module: nn.Module, args: object, output: Tensor) -> Tensor:
            flat = output.flatten(1).clone()
            flat[:, matters] = given[:, matters]
            return flat.view_as(output)

        with network.get_submodule(site).register_forward_hook(swap):
            total = total + disguise.swaps * cross_entropy(network(shown[0]), known[1])
    return total


class _Taken:
    """A site's states, with the gradient of the predicted class's lead over the mean logit, in the graph."""

    def __init__(self, network: nn.Module, site: str, inputs: Tensor) -> None:
        kept: list[Tensor] = []
        with network.get_submodule(site).register_forward_hook(lambda module, args, output: kept.append(output)):
            logits = network(inputs)
        lead = (logits.amax(-1) - logits.mean(-1)).sum()
        (gradient,) = torch.autograd.grad(lead, kept[0], create_graph=True)
        self.state, self.gradient = kept[0].flatten(1), gradient.flatten(1)

    def importance(self, centre: Tensor) -> Tensor:
        """[units]"""
        return (self.gradient * (self.state - centre)).abs().mean(0)
