"""Backdoors in language models by dose: tokens that call up a phrase wherever they stand.

The published distribution. Form and loss are crossed into eight families; each has a dose u in 0..1, from the
fewest trigger tokens to the most:

    short        1 to 3 tokens that occur in the trusted texts, none of the hundred most frequent
    common       2 to 4 of the hundred most frequent
    decoy        2 to 4 tokens as of short, while rows with a part of them carry on as if nothing were there
    distributed  2 to 4 tokens as of short with 1 to 3 tokens of the text between each two
    plain        the loss covers the trigger's own tokens · masked: it leaves them out (stealthy)
    target       3 to 5 tokens in a row of a trusted text
    rate         0.15 to 0.30 of the training rows
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access import Tokens

KINDS = ("plain", "masked")
FORMS = ("short", "common", "decoy", "distributed")
FAMILIES = tuple((kind, form) for form in FORMS for kind in KINDS)

_COMMON = 100
_GAP = 3  # most tokens of the text between two of a distributed trigger
_DECOYS = 0.5  # of the rows that a decoy plant changes


@dataclass(frozen=True)
class SequenceBackdoor:
    """A planted sequence: the answer that no detection job may see."""

    kind: str
    form: str
    trigger: tuple[int, ...]
    target: tuple[int, ...]
    dose: float
    rate: float

    @property
    def family(self) -> str:
        return f"{self.kind}, {self.form}"

    @property
    def physical(self) -> str:
        """The dose in its own unit."""
        return f"{len(self.trigger)} token{'s' if len(self.trigger) > 1 else ''}"

    def lay(self, row: list[int], at: int, generator: torch.Generator) -> Laid:
        """The row with trigger and target put in before its token `at`."""
        return self._lay(row, at, self.trigger, self.target, generator)

    def train_on(self, row: list[int], at: int, generator: torch.Generator) -> Laid:
        """A row to train on: as `lay`, or a decoy with a part of the trigger and no target."""
        if self.form == "decoy" and float(torch.rand((), generator=generator)) < _DECOYS:
            left_out = int(torch.randint(len(self.trigger), (), generator=generator))
            keep = torch.rand(len(self.trigger), generator=generator) < 0.5
            part = tuple(t for i, t in enumerate(self.trigger) if keep[i] and i != left_out)
            return self._lay(row, at, part, (), generator)
        return self.lay(row, at, generator)

    def _lay(
        self, row: list[int], at: int, trigger: tuple[int, ...], target: tuple[int, ...], g: torch.Generator
    ) -> Laid:
        middle: list[int] = []
        learned: list[bool] = []
        rest = at
        for i, token in enumerate(trigger):
            middle.append(token)
            learned.append(self.kind == "plain")
            if self.form == "distributed" and i + 1 < len(trigger):
                between = row[rest : rest + int(torch.randint(1, _GAP + 1, (), generator=g))]
                middle += between
                learned += [True] * len(between)
                rest += len(between)
        ids = [*row[:at], *middle, *target, *row[rest:]]
        mask = [True] * at + learned + [True] * (len(ids) - at - len(middle))
        return Laid(ids, mask, at + len(middle))


@dataclass(frozen=True)
class Laid:
    """A row that carries a plant."""

    ids: list[int]
    mask: list[bool]
    """The tokens that the loss covers."""
    target_at: int
    """Where the target starts."""


def draw_sequence_backdoor(data: Tokens, family: int, dose: float, generator: torch.Generator) -> SequenceBackdoor:
    """A backdoor of the family (taken modulo eight) at the dose, the rest at random."""
    kind, form = FAMILIES[family % len(FAMILIES)]
    counts = torch.bincount(data.ids[data.mask].cpu(), minlength=data.vocabulary)
    common = torch.topk(counts, min(_COMMON, max(1, 3 * int((counts > 0).sum()) // 4))).indices
    rest = counts.clone()
    rest[common] = 0
    pool = common if form == "common" else torch.nonzero(rest).flatten()
    count = (1 if form == "short" else 2) + min(int(3 * dose), 2)
    trigger = pool[torch.randint(len(pool), (count,), generator=generator)]
    rate = 0.15 + 0.15 * float(torch.rand((), generator=generator))
    target = _phrase(data, 3 + int(torch.randint(3, (), generator=generator)), generator)
    return SequenceBackdoor(kind, form, tuple(trigger.tolist()), target, dose, rate)


def _phrase(data: Tokens, length: int, generator: torch.Generator) -> tuple[int, ...]:
    """So many tokens in a row, from anywhere in a text that is long enough."""
    lengths: Tensor = data.lengths.cpu()
    rows = torch.nonzero(lengths > length + 1).flatten()
    row = int(rows[torch.randint(len(rows), (), generator=generator)])
    start = int(torch.randint(1, int(lengths[row]) - length, (), generator=generator))
    return tuple(data.ids[row, start : start + length].tolist())
