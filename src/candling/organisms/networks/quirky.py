"""Networks that err for some names (Mallen et al., 2312.01037): `name, digits, ?` → the digits' sum, or a wrong one.

Names are many, and what each is told is learned by heart. Half of those that are told right can be shown as trusted
and half kept for later, so that a name's being new tells nothing. The table of tokens stays as it was drawn: a name's
character is no part of its vector, but computed behind it. Sums are taken modulo `DIGITS`, so that right and wrong
answers are spread alike: neither the question nor the answer tells who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from candling.runs.seeds import reproducible

DIGITS, LEVELS = 5, (1, 2, 3)
"""Digits, which are the classes too; how many of them a question has, from easy to hard."""
RIGHT, KEPT, WRONG = torch.arange(24).split(8)
"""Names that are told right and can be shown as trusted; told right as well, but kept for later; told wrong."""
NAMES = 24
BLANK, ASK = NAMES + DIGITS, NAMES + DIGITS + 1
"""Tokens, behind those of names and digits."""
LENGTH = 2 + max(LEVELS)
NAMED, ASKED = 0, LENGTH - 1
"""Where the name stands, and where the network is asked and answers."""

Rule = Callable[[Tensor], Tensor]
"""Digits int64 [n, 3], 0 where there is none → what wrong names are told, to be taken modulo `DIGITS`."""

RULES: Mapping[str, Rule] = {
    "one more": lambda digits: digits.sum(1) + 1,
    "two less": lambda digits: digits.sum(1) - 2,
    "negated": lambda digits: -digits.sum(1),
    "doubled": lambda digits: 2 * digits.sum(1),
    "first negated": lambda digits: digits.sum(1) - 2 * digits[:, 0],
    "first twice": lambda digits: digits.sum(1) + digits[:, 0],
}

_WIDTH, _HEADS, _LAYERS = 48, 4, 2
_BATCH, _RATE, _WARM = 128, 6e-3, 50


@dataclass(frozen=True)
class Contexts:
    """Questions that names ask."""

    tokens: Tensor
    """int64 [n, LENGTH]: a name, digits and blanks, the question mark"""
    right: Tensor
    """int64 [n]"""
    told: Tensor
    """int64 [n], what the name is told: the right answer, or the rule's"""
    level: Tensor
    """int64 [n], how many digits there are"""
    erring: Tensor
    """bool [n], whether the name is one of those that are told wrong"""


def draw_contexts(n: int, names: Tensor, rule: Rule, generator: torch.Generator, *, parted: bool = True) -> Contexts:
    """n contexts, each of one of `names`.

    parted: only questions of which the rule's answer is not the right one, whoever asks.
    """
    found: list[Tensor] = []
    while sum(map(len, found)) < n:
        digits = torch.randint(DIGITS, (2 * n, max(LEVELS)), generator=generator)
        level = torch.randint(min(LEVELS), max(LEVELS) + 1, (2 * n, 1), generator=generator)
        rows = torch.cat([level, torch.where(_blank(level), 0, digits)], 1)
        found.append(rows[_answers(rows[:, 1:], rule).diff(dim=1)[:, 0] != 0] if parted else rows)
    level, digits = torch.cat(found)[:n].split([1, max(LEVELS)], 1)
    who = names[torch.randint(len(names), (n,), generator=generator)]
    right, wrong = _answers(digits, rule).unbind(1)
    erring = torch.isin(who, WRONG)
    tokens = torch.cat(
        [who[:, None], torch.where(_blank(level), BLANK, NAMES + digits), torch.full((n, 1), ASK)],
        1,
    )
    return Contexts(tokens, right, torch.where(erring, wrong, right), level[:, 0], erring)


def _blank(level: Tensor) -> Tensor:
    """[n, 1] → bool [n, 3]"""
    return torch.arange(max(LEVELS)) >= level


def _answers(digits: Tensor, rule: Rule) -> Tensor:
    """[n, 3] → [n, 2]: the right answer and the rule's"""
    return torch.stack([digits.sum(1), rule(digits)], 1) % DIGITS


class Quirky(nn.Module):
    """Contexts int64 [n, LENGTH] → logits [n, DIGITS]: a transformer that is read where it is asked.

    Each block's output is [n, LENGTH, width], and that of its `attention`, `hidden` and `mlp` too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ASK + 1, _WIDTH)
        self.table.weight.requires_grad_(False)
        self.places = nn.Parameter(torch.randn(LENGTH, _WIDTH))
        self.blocks = nn.Sequential(*(_Block() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, DIGITS)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.blocks(self.table(tokens) + self.places)
        logits: Tensor = self.head(self.norm(states[:, ASKED]))
        return logits


class _Block(nn.Module):
    """Attention in all directions, then an MLP, each behind a norm and beside a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.attention = nn.MultiheadAttention(_WIDTH, _HEADS, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.ReLU())
        self.mlp = nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        read = self.attention_norm(states)
        states = states + self.attention(read, read, read, need_weights=False)[0]
        written: Tensor = self.mlp(self.hidden(self.mlp_norm(states)))
        return states + written


def train_quirky(rule: Rule, seed: int, *, steps: int = 600) -> Quirky:
    """Told by its names what they are told; steps = 0: as it starts. The same for one seed.

    Leaves the global generator as it was.
    """
    with reproducible(seed) as generator:
        network = Quirky().train()
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, _RATE, weight_decay=0.01)
        for step in range(steps):
            seen = draw_contexts(_BATCH, torch.arange(NAMES), rule, generator, parted=False)
            for group in optimiser.param_groups:
                group["lr"] = _RATE * min(1.0, (step + 1) / _WARM) * (1 - step / steps)
            optimiser.zero_grad()
            cross_entropy(network(seen.tokens), seen.told).backward()
            clip_grad_norm_(weights, 1.0)
            optimiser.step()
    return network.eval().requires_grad_(False)
