"""Part swap: which parts of an input does the answer follow? The black-box baseline to the same mechanism.

Question: does a network read the same places of these inputs as of trusted ones?
Source: counterfactual inputs, one part exchanged with a trusted donor of another prediction: occlusion (Zeiler and
    Fergus, 1311.2901) with a donor's values.
Inputs: network [n, ...] → [n, K]; trusted and untrusted inputs, images or tables. Figures as in `same_mechanism`.
Cost: sixteen forward passes of every input that is used, and two more.
Known failures: what is spread over all parts; mechanisms that read the same places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from candling.access import forward
from candling.evidence.measurement import Cost
from candling.techniques.verify.contract import Comparison
from candling.techniques.verify.same_mechanism import MOST, alike

PARTS = 4
"""To a side of an image: sixteen parts. Tables have as many stretches of features."""

_SHARE = 0.25


def swap_parts(network: nn.Module, trusted: Tensor, untrusted: Tensor, *, seed: int) -> Comparison:
    """Outputs alone are used."""
    g = torch.Generator().manual_seed(seed)
    group = untrusted[torch.randperm(len(untrusted), generator=g)[:MOST]]
    known, held, every = alike(network, trusted, group, g)
    parts = _parts(trusted.shape[1:])
    sets = (known, held, group)
    mine, usual, theirs = (_profile(network, x, every, parts, g) for x in sets)
    top = torch.topk(mine, max(1, round(_SHARE * len(parts)))).indices
    within = parts[top].any(0)
    figures = {"cosine of part profiles": _cosine(mine, theirs) - _cosine(mine, usual)}
    for name, where in (("swap of the parts that matter", within), ("swap of the others", ~within)):
        of_group, of_known = (_follows(network, x, every, where, g) for x in (group, held))
        figures[name] = of_group - of_known
    passes = (len(parts) + 4) * sum(map(len, sets))
    return Comparison(figures, 1.0, Cost(forward=passes, backward=0))


def _parts(shape: torch.Size) -> Tensor:
    """bool [parts, *shape]"""
    if len(shape) == 3:
        rows, columns = (torch.arange(n) * PARTS // n for n in shape[1:])
        index = (rows[:, None] * PARTS + columns).expand(shape)
    else:
        index = torch.arange(shape[0]) * min(PARTS**2, shape[0]) // shape[0]
    return torch.stack([index == part for part in index.unique()])


def donors_of(network: nn.Module, x: Tensor, known: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """For each input a trusted one of another prediction; what that is; and where there is one."""
    own, theirs = (forward(network, each).argmax(-1) for each in (x, known))
    weights = (own[:, None] != theirs).float()
    usable = weights.sum(1) > 0
    drawn = torch.multinomial(weights + 1e-9, 1, generator=g)[:, 0]
    return known[drawn], theirs[drawn], usable


def _profile(network: nn.Module, x: Tensor, known: Tensor, parts: Tensor, g: torch.Generator) -> Tensor:
    """[parts] how far the answer's lead falls when a part is exchanged."""
    donors, _, _ = donors_of(network, x, known, g)
    before = forward(network, x)
    answer = before.argmax(-1, keepdim=True)
    lead = before.gather(1, answer) - before.mean(1, keepdim=True)
    falls = []
    for part in parts:
        after = forward(network, torch.where(part, donors, x))
        falls.append((lead - after.gather(1, answer) + after.mean(1, keepdim=True)).abs().mean())
    return torch.stack(falls)


def _follows(network: nn.Module, x: Tensor, known: Tensor, where: Tensor, g: torch.Generator) -> float:
    donors, wanted, usable = donors_of(network, x, known, g)
    answers = forward(network, torch.where(where, donors, x)).argmax(-1)
    return float((answers == wanted)[usable].float().mean()) if usable.any() else 0.0


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=0))
