"""Frozen kinds: programs that somebody may well ask about, outside the list that the solver's grammar was written to.

The rule: written apart from the proposers (the first of these were being written at the same time), by somebody who
writes none. Whoever writes or changes a proposer does not read this file, its tests' tables or its problems'
descriptions, and looks at results on these kinds only as one figure, apart from the others. Nothing here changes any
more, not even to mend it: a kind that turns out to be faulty is dropped by name in the report, and a new set is a new
module.
"""

from __future__ import annotations

from functools import partial
from math import inf

import torch
from torch import Tensor

from candling.organisms.programs import images, pairs, sequences
from candling.organisms.programs.problem import (
    Inputs,
    Kind,
    Problem,
    Recipe,
    Rule,
    between,
    integer,
    limits,
    member,
    one_of,
    some_of,
    spoken,
    uniform,
    within,
)

# Images


def nearer(inputs: Inputs, *, one: Tensor, other: Tensor) -> Tensor:
    """1 where the image is nearer to `one` than to `other`, by straight distance."""
    return (images.l2(inputs.x, one) < images.l2(inputs.x, other)).long()


def nearer_of_two(inputs: Inputs, g: torch.Generator) -> Rule:
    rows = torch.randint(len(inputs), (2,), generator=g)
    one, other = inputs.x[rows]
    return Rule("nearer to one exemplar than to another", partial(nearer, one=one, other=other))


def like(inputs: Inputs, *, template: Tensor, most: float) -> Tensor:
    """1 where the straight distance to the template is at most so much."""
    return within(images.l2(inputs.x, template), -inf, most)


def like_a_mean(inputs: Inputs, g: torch.Generator) -> Rule:
    digit = integer(0, 9, g)
    known = images.digits()
    assert known.digit is not None
    template = known.x[known.digit == digit].mean(0)
    most = between(images.l2(inputs.x, template), uniform(0.42, 0.58, g))
    says = f"the straight distance to the mean of all images of a {digit} is {spoken(-inf, most)}"
    return Rule(says, partial(like, template=template, most=most))


def fullest_quarter(inputs: Inputs, *, row: int, column: int) -> Tensor:
    """0 to 3, row by row: which of the four parts about a point has the most ink; the first of equals."""
    boxes = [
        (top, bottom, left, right)
        for top, bottom in ((0, row), (row, images.EDGE))
        for left, right in ((0, column), (column, images.EDGE))
    ]
    return torch.stack([images.ink(inputs.x, box) for box in boxes]).argmax(0)


def quarters(_: Inputs, g: torch.Generator) -> Rule:
    row, column = integer(3, 5, g), integer(3, 5, g)
    says = f"which of the four parts about the corner of row {row} and column {column} has the most ink"
    return Rule(says, partial(fullest_quarter, row=row, column=column), classes=4)


# Pairs


def disc(inputs: Inputs, *, row: int, column: int, most: float) -> Tensor:
    """1 where (a - row)² + (b - column)² ≤ most."""
    a, b = inputs.x.unbind(1)
    return within((a - row).square() + (b - column).square(), -inf, most)


def disc_about_a_point(inputs: Inputs, g: torch.Generator) -> Rule:
    p = int(inputs.x.max()) + 1
    row, column = integer(0, p - 1, g), integer(0, p - 1, g)
    a, b = inputs.x.unbind(1)
    most = between((a - row).square() + (b - column).square(), uniform(0.42, 0.58, g))
    says = f"(a - {row})² + (b - {column})² is {spoken(-inf, most)}"
    return Rule(says, partial(disc, row=row, column=column, most=most))


def digit_sums(inputs: Inputs, *, low: float, high: float) -> Tensor:
    """1 where low ≤ the sum of all decimal digits of a and b ≤ high."""
    return within((inputs.x // 10 + inputs.x % 10).sum(1), low, high)


def decimal_digits(inputs: Inputs, g: torch.Generator) -> Rule:
    low, high = limits((inputs.x // 10 + inputs.x % 10).sum(1), one_of(("above", "band"), g), g)
    return Rule(
        f"the sum of the decimal digits of a and b is {spoken(low, high)}", partial(digit_sums, low=low, high=high)
    )


def common_ones(x: Tensor) -> Tensor:
    """int64 [n]: binary places where both numbers have a one."""
    both = x[:, 0] & x[:, 1]
    return torch.stack([(both >> place) & 1 for place in range(8)]).sum(0)


def ones_in_common(inputs: Inputs, *, least: int) -> Tensor:
    """1 where the numbers share at least so many binary ones."""
    return (common_ones(inputs.x) >= least).long()


def binary_ones(_: Inputs, g: torch.Generator) -> Rule:
    return Rule("a and b have two binary ones or more in common", partial(ones_in_common, least=2))


def extreme(inputs: Inputs, *, largest: bool, low: float, high: float) -> Tensor:
    """1 where low ≤ the larger (or the smaller) of a and b ≤ high."""
    return within(inputs.x.amax(1) if largest else inputs.x.amin(1), low, high)


def extreme_band(inputs: Inputs, g: torch.Generator) -> Rule:
    largest = one_of((True, False), g)
    low, high = limits(inputs.x.amax(1) if largest else inputs.x.amin(1), "band", g)
    says = f"the {'larger' if largest else 'smaller'} of a and b is {spoken(low, high)}"
    return Rule(says, partial(extreme, largest=largest, low=low, high=high))


# Sequences


def longest_run(x: Tensor) -> Tensor:
    """int64 [n]: the length of the longest run of equal tokens."""
    run = torch.ones(len(x), dtype=torch.long)
    longest = run
    for place in range(1, x.shape[1]):
        run = torch.where(x[:, place] == x[:, place - 1], run + 1, 1)
        longest = torch.maximum(longest, run)
    return longest


def runs(inputs: Inputs, *, least: float) -> Tensor:
    """1 where the longest run has at least so many tokens."""
    return within(longest_run(inputs.x), least, inf)


def run_length(inputs: Inputs, g: torch.Generator) -> Rule:
    least = between(longest_run(inputs.x), uniform(0.4, 0.6, g))
    return Rule(f"the longest run of equal tokens is {spoken(least, inf)} long", partial(runs, least=least))


def different(x: Tensor) -> Tensor:
    """int64 [n]: how many different tokens there are."""
    ordered = x.sort(1).values
    return (ordered[:, 1:] != ordered[:, :-1]).sum(1) + 1


def tokens_differ(inputs: Inputs, *, low: float, high: float) -> Tensor:
    """1 where low ≤ different tokens ≤ high."""
    return within(different(inputs.x), low, high)


def different_tokens(inputs: Inputs, g: torch.Generator) -> Rule:
    low, high = limits(different(inputs.x), one_of(("above", "below"), g), g)
    return Rule(f"the number of different tokens is {spoken(low, high)}", partial(tokens_differ, low=low, high=high))


def greatest_early(inputs: Inputs, *, before: int) -> Tensor:
    """1 where the greatest token (the first of equals) stands before this place, counted from 0."""
    return (inputs.x.argmax(1) < before).long()


def place_of_greatest(inputs: Inputs, g: torch.Generator) -> Rule:
    before = integer(2, inputs.x.shape[1] // 2, g)
    says = f"the greatest token (the first of equals) is among the first {before}"
    return Rule(says, partial(greatest_early, before=before))


def last_is_old(inputs: Inputs, *, tokens: tuple[int, ...]) -> Tensor:
    """1 where the last token stands there before as well, or is among these."""
    last = inputs.x[:, -1]
    seen = (inputs.x[:, :-1] == last[:, None]).any(1)
    return (seen | (member(last, tokens) == 1)).long()


def last_seen_before(inputs: Inputs, g: torch.Generator) -> Rule:
    tokens = some_of(int(inputs.x.max()) + 1, integer(0, 1, g), g)
    or_else = f", or is {tokens[0]}" if tokens else ""
    return Rule(f"the last token stands there before as well{or_else}", partial(last_is_old, tokens=tokens))


_IMAGES = Recipe(steps=1200, batch=256, rate=5e-3, decay=0.1)
_SPREAD = Recipe(steps=1000, batch=256, rate=5e-3, decay=1.0)
_LARGE = Recipe(steps=1500, batch=512, rate=1e-2, decay=1.0)
_TABLE = Recipe(steps=1500, batch=256, rate=1e-2, decay=0.3)
_PLANE = Recipe(steps=1500, batch=256, rate=1e-2, decay=1e-3)
_TOKENS = Recipe(steps=800, batch=256, rate=5e-3, decay=1e-2)

FROZEN: dict[str, Kind] = {
    "nearer of two": Kind(nearer_of_two, images.FLAT, _IMAGES),
    "like a mean": Kind(like_a_mean, images.LEVELS, _SPREAD),
    "quarters": Kind(quarters, images.FLAT, _IMAGES),
    "disc": Kind(disc_about_a_point, pairs.NUMBERS, _PLANE),
    "decimal digits": Kind(decimal_digits, pairs.TABLE, _TABLE),
    "binary ones": Kind(binary_ones, pairs.NARROW_TABLE, _LARGE, ((109,), (113,), (127,))),
    "extreme": Kind(extreme_band, pairs.NUMBERS, _PLANE),
    "run": Kind(run_length, sequences.WINDOWS, _TOKENS, ((3, 10),)),
    "different": Kind(different_tokens, sequences.POOLED, _TOKENS, ((8, 8), (10, 8))),
    "greatest": Kind(place_of_greatest, sequences.RECURRENT, _TOKENS, ((8, 6), (10, 8))),
    "seen before": Kind(last_seen_before, sequences.WRITTEN, _TOKENS, ((8, 6), (10, 8))),
}

_FAMILIES = {"images": images, "pairs": pairs, "sequences": sequences}
FAMILY_OF: dict[str, str] = dict(zip(FROZEN, ["images"] * 3 + ["pairs"] * 4 + ["sequences"] * 4, strict=True))


def pose_frozen(kind: str, seed: int) -> Problem:
    """The problem of a frozen kind and a seed. Raises KeyError where there is no such kind."""
    problem: Problem = _FAMILIES[FAMILY_OF[kind]].problem(kind, FROZEN[kind], seed)
    return problem
