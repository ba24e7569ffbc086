"""What formulas over token sequences int64 [n, L] call: `program.py` brings the source of those that it uses."""

from __future__ import annotations

from typing import Any

import numpy as np

Whole = Any
"""An int64 array; numpy's own types are lost in sums over places."""
Truth = Any
"""A bool array."""


def inversions(x: Whole) -> Whole:
    """Pairs of places of which the earlier holds the larger token."""
    length = x.shape[1]
    return sum((x[:, i] > x[:, j]).astype(np.int64) for i in range(length) for j in range(i + 1, length))


def distinct(x: Whole) -> Whole:
    """How many different tokens there are."""
    rising = np.sort(x, axis=1)
    return 1 + (rising[:, 1:] != rising[:, :-1]).sum(1)


def longest_run(hits: Truth) -> Whole:
    """The longest stretch of neighbouring places that are true."""
    best = now = np.zeros(len(hits), dtype=np.int64)
    for place in range(hits.shape[1]):
        now = (now + 1) * hits[:, place]
        best = np.maximum(best, now)
    return best


def first_place(hits: Truth) -> Whole:
    """The first place that is true; the length where none is."""
    return np.where(hits.any(1), hits.argmax(1), hits.shape[1])


def last_place(hits: Truth) -> Whole:
    """The last place that is true; -1 where none is."""
    return np.where(hits.any(1), hits.shape[1] - 1 - hits[:, ::-1].argmax(1), -1)


def token_at(x: Whole, place: Whole) -> Whole:
    """The token at each row's own place; -1 where that is outside."""
    inside = (place >= 0) & (place < x.shape[1])
    return np.where(inside, x[np.arange(len(x)), np.clip(place, 0, x.shape[1] - 1)], -1)


def times(x: Whole) -> Whole:
    """[n, L] how often the token at each place occurs in its row."""
    return (x[:, :, None] == x[:, None, :]).sum(2)


def most_common(x: Whole) -> Whole:
    """The commonest token, the smallest of several."""
    counts = np.stack([(x == token).sum(1) for token in range(int(x.max()) + 1)], axis=1)
    return counts.argmax(1)


def occurrences(x: Whole, t: int, u: int) -> Whole:
    """How often one token stands right before another."""
    return ((x[:, :-1] == t) & (x[:, 1:] == u)).sum(1)


def neighbours(x: Whole, w: int, codes: tuple[int, ...]) -> Whole:
    """Neighbouring places whose tokens t, u have w·t + u among the codes."""
    return np.isin(w * x[:, :-1] + x[:, 1:], codes).sum(1)


def ordered(x: Whole, t: int, u: int) -> Whole:
    """Pairs of places, not only neighbours, with one token before the other."""
    return ((x == t).cumsum(1) * (x == u)).sum(1)


def walk(up: Truth, down: Truth) -> Whole:
    """[n, L] the height after each place of a walk that goes up and down by one."""
    return (up.astype(np.int64) - down).cumsum(1)


def alternating(x: Whole) -> Whole:
    """Tokens at even places less those at odd places, added up."""
    return x[:, 0::2].sum(1) - x[:, 1::2].sum(1)
