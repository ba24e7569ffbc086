"""Short token sequences: rules on [n, L] tokens of 0..V-1, drawn evenly, all different from each other."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from candling.organisms.programs import networks
from candling.organisms.programs.problem import (
    Inputs,
    Kind,
    Problem,
    Recipe,
    Rule,
    integer,
    limits,
    member,
    one_of,
    posed,
    some_of,
    spoken,
    within,
)
from candling.runs.seeds import derive

_TRAINING, _TEST, _UNLABELLED = 12000, 2000, 4000
Sizes = tuple[tuple[int, ...], ...]
"""(tokens V, length L), of which a problem has one."""


def sequences(n: int, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """int64 [n, L], drawn evenly from all sequences, without repetition."""
    tokens, length = shape
    if tokens**length < 4 * n:
        codes = torch.randperm(tokens**length, generator=g)[:n]
    else:
        codes = torch.randint(tokens**length, (2 * n,), generator=g).unique()
        codes = codes[torch.randperm(len(codes), generator=g)[:n]]
    return codes[:, None] // tokens ** torch.arange(length) % tokens


def problem(name: str, kind: Kind, seed: int) -> Problem:
    g = torch.Generator().manual_seed(derive(seed, name, "sequences"))
    shape = one_of(kind.sizes, g)
    counts = [_TRAINING, _TEST, _UNLABELLED]
    drawn = sequences(sum(counts), shape, g).split(counts)
    first, second, third = map(Inputs, drawn)
    return posed("sequences", name, seed, (first, second, third), kind, tokens=shape[0], length=shape[1])


def _vocabulary(inputs: Inputs) -> int:
    return int(inputs.x.max()) + 1


def named(tokens: tuple[int, ...]) -> str:
    return f"{{{', '.join(map(str, tokens))}}}"


def count(x: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """int64 [n]: how many tokens are among these."""
    return member(x, tokens).sum(1)


def counted(inputs: Inputs, *, tokens: tuple[int, ...], low: float, high: float) -> Tensor:
    """1 where low ≤ count ≤ high."""
    return within(count(inputs.x, tokens), low, high)


def count_band(inputs: Inputs, g: torch.Generator) -> Rule:
    vocabulary = _vocabulary(inputs)
    tokens = some_of(vocabulary, integer(2, vocabulary // 2, g), g)
    low, high = limits(count(inputs.x, tokens), one_of(("above", "band"), g), g)
    says = f"the number of tokens among {named(tokens)} is {spoken(low, high)}"
    return Rule(says, partial(counted, tokens=tokens, low=low, high=high))


def counts_differ(inputs: Inputs, *, more: tuple[int, ...], less: tuple[int, ...], low: float, high: float) -> Tensor:
    """1 where low ≤ count of `more` - count of `less` ≤ high."""
    return within(count(inputs.x, more) - count(inputs.x, less), low, high)


def count_difference(inputs: Inputs, g: torch.Generator) -> Rule:
    vocabulary = _vocabulary(inputs)
    size = integer(1, vocabulary // 3, g)
    drawn = torch.randperm(vocabulary, generator=g).tolist()
    more, less = tuple(sorted(drawn[:size])), tuple(sorted(drawn[size : 2 * size]))
    low, high = limits(count(inputs.x, more) - count(inputs.x, less), one_of(("above", "band"), g), g)
    says = f"the number of {named(more)} less the number of {named(less)} is {spoken(low, high)}"
    return Rule(says, partial(counts_differ, more=more, less=less, low=low, high=high))


def summed(inputs: Inputs, *, low: float, high: float) -> Tensor:
    """1 where low ≤ the sum of all tokens ≤ high."""
    return within(inputs.x.sum(1), low, high)


def sum_band(inputs: Inputs, g: torch.Generator) -> Rule:
    low, high = limits(inputs.x.sum(1), one_of(("above", "band"), g), g)
    return Rule(f"the sum of the tokens is {spoken(low, high)}", partial(summed, low=low, high=high))


def sum_residue(inputs: Inputs, *, m: int, chosen: tuple[int, ...]) -> Tensor:
    """1 where the sum of all tokens, mod m, is among those chosen."""
    return member(inputs.x.sum(1) % m, chosen)


def sum_mod(_: Inputs, g: torch.Generator) -> Rule:
    m = integer(4, 6, g)
    chosen = some_of(m, m // 2, g)
    says = f"the sum of the tokens mod {m} is one of {', '.join(map(str, chosen))}"
    return Rule(says, partial(sum_residue, m=m, chosen=chosen))


def first_place(x: Tensor, token: int) -> Tensor:
    """int64 [n]: where a token first stands; L where it does not."""
    found = x == token
    return torch.where(found.any(1), found.long().argmax(1), x.shape[1])


def stands_before(inputs: Inputs, *, first: int, second: int) -> Tensor:
    """1 where `first` is there and the first of it stands before any `second`."""
    return (first_place(inputs.x, first) < first_place(inputs.x, second)).long()


def order(inputs: Inputs, g: torch.Generator) -> Rule:
    first, second = torch.randperm(_vocabulary(inputs), generator=g)[:2].tolist()
    says = f"the first {first} stands before any {second}"
    return Rule(says, partial(stands_before, first=first, second=second))


def unlike_mirrored(x: Tensor) -> Tensor:
    """int64 [n]: places of the first half whose token is not that of the mirrored place."""
    half = x.shape[1] // 2
    return (x[:, :half] != x.flip(1)[:, :half]).sum(1)


def mirror_mismatches(inputs: Inputs, *, low: float, high: float) -> Tensor:
    """1 where low ≤ mismatches with the mirrored sequence ≤ high."""
    return within(unlike_mirrored(inputs.x), low, high)


def mirror(inputs: Inputs, g: torch.Generator) -> Rule:
    low, high = limits(unlike_mirrored(inputs.x), one_of(("above", "below"), g), g)
    says = f"the number of mismatches between the first half and the second half backwards is {spoken(low, high)}"
    return Rule(says, partial(mirror_mismatches, low=low, high=high))


def unlike_shifted(x: Tensor, by: int) -> Tensor:
    """int64 [n]: places whose token is not the one `by` places on."""
    return (x[:, by:] != x[:, :-by]).sum(1)


def shift_mismatches(inputs: Inputs, *, by: int, low: float, high: float) -> Tensor:
    """1 where low ≤ mismatches with the shifted sequence ≤ high."""
    return within(unlike_shifted(inputs.x, by), low, high)


def shift(inputs: Inputs, g: torch.Generator) -> Rule:
    by = integer(1, 2, g)
    low, high = limits(unlike_shifted(inputs.x, by), one_of(("above", "below"), g), g)
    says = f"the number of places whose token differs from the one {by} on is {spoken(low, high)}"
    return Rule(says, partial(shift_mismatches, by=by, low=low, high=high))


def bigrams(x: Tensor, table: Tensor) -> Tensor:
    """int64 [n]: neighbours (s, t) with table[s, t] = 1."""
    return table[x[:, :-1], x[:, 1:]].sum(1)


def bigrams_counted(inputs: Inputs, *, table: Tensor, low: float, high: float) -> Tensor:
    """1 where low ≤ neighbours in the table ≤ high."""
    return within(bigrams(inputs.x, table), low, high)


def bigram_table(inputs: Inputs, g: torch.Generator) -> Rule:
    vocabulary = _vocabulary(inputs)
    cells = some_of(vocabulary**2, integer(2, 4, g), g)
    table = torch.zeros(vocabulary**2, dtype=torch.long)
    table[list(cells)] = 1
    table = table.reshape(vocabulary, vocabulary)
    low, high = limits(bigrams(inputs.x, table), "above", g)
    spelled = ", ".join(f"{cell // vocabulary} {cell % vocabulary}" for cell in cells)
    says = f"the number of neighbours among {{{spelled}}} is {spoken(low, high)}"
    return Rule(says, partial(bigrams_counted, table=table, low=low, high=high))


def first_unique(x: Tensor) -> Tensor:
    """int64 [n]: the first token that stands there only once; -1 where there is none."""
    alone = (x[:, :, None] == x[:, None, :]).sum(2) == 1
    found = x.gather(1, alone.long().argmax(1, keepdim=True))[:, 0]
    return torch.where(alone.any(1), found, -1)


def first_unique_in(inputs: Inputs, *, tokens: tuple[int, ...]) -> Tensor:
    """1 where the first token that stands there only once is among these."""
    return member(first_unique(inputs.x), tokens)


def unique(inputs: Inputs, g: torch.Generator) -> Rule:
    vocabulary = _vocabulary(inputs)
    tokens = some_of(vocabulary, vocabulary // 2, g)
    says = f"the first token that occurs only once is one of {named(tokens)}"
    return Rule(says, partial(first_unique_in, tokens=tokens))


def highest(x: Tensor, up: tuple[int, ...]) -> Tensor:
    """int64 [n]: the greatest height of a walk from 0 (itself counted): +1 for a token among `up`, else -1."""
    return (2 * member(x, up) - 1).cumsum(1).amax(1).clamp(min=0)


def walk_height(inputs: Inputs, *, up: tuple[int, ...], low: float, high: float) -> Tensor:
    """1 where low ≤ greatest height ≤ high."""
    return within(highest(inputs.x, up), low, high)


def walk(inputs: Inputs, g: torch.Generator) -> Rule:
    vocabulary = _vocabulary(inputs)
    up = some_of(vocabulary, vocabulary // 2, g)
    low, high = limits(highest(inputs.x, up), one_of(("above", "below"), g), g)
    says = f"the greatest height of the walk that goes up at {named(up)} and down otherwise is {spoken(low, high)}"
    return Rule(says, partial(walk_height, up=up, low=low, high=high))


POOLED = partial(networks.Pooled, width=48)
RECURRENT = partial(networks.Recurrent, width=48)
WINDOWS = partial(networks.Windows, width=48)
WRITTEN = partial(networks.Written, width=160)
ATTENTIVE = partial(networks.Attentive, width=32)
_SHORT = Recipe(steps=600, batch=256, rate=1e-2, decay=1e-3)
_USUAL = Recipe(steps=1000, batch=256, rate=5e-3, decay=1e-2)

_WIDE: Sizes = ((8, 10), (8, 12), (10, 12))
_MIDDLE: Sizes = ((6, 8), (6, 10))
_NARROW: Sizes = ((4, 8), (4, 10))
_MIRRORED: Sizes = ((3, 10), (5, 8))

KINDS: dict[str, Kind] = {
    "count": Kind(count_band, ATTENTIVE, replace(_SHORT, steps=400, batch=128), _WIDE),
    "count difference": Kind(count_difference, POOLED, _SHORT, _WIDE),
    "sum": Kind(sum_band, POOLED, _SHORT, _WIDE),
    "sum mod": Kind(sum_mod, POOLED, _USUAL, _NARROW),
    "order": Kind(order, RECURRENT, _SHORT, _MIDDLE),
    "mirror": Kind(mirror, WRITTEN, _USUAL, _MIRRORED),
    "shift": Kind(shift, WINDOWS, _USUAL, _MIRRORED),
    "bigrams": Kind(bigram_table, WINDOWS, _SHORT, _MIDDLE),
    "first unique": Kind(unique, RECURRENT, _USUAL, _MIDDLE),
    "walk": Kind(walk, RECURRENT, _USUAL, _MIDDLE),
}
