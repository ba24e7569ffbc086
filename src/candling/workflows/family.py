"""Several problem classes in one run: p-values over all of them, from negatives that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from candling.evidence.control import NetworkRow
from candling.evidence.family import Key, family_p_value, keys
from candling.evidence.judge import Standing
from candling.evidence.verdict import Resemblance
from candling.problems import Bench, Network, Problem
from candling.workflows.bank import Bank, place
from candling.workflows.examine import Bar, Examination, Look, conclude, look


def as_family(banks: Sequence[Bank]) -> list[Bank]:
    """The banks with their rows' p-values over all classes; as they are where there is one.

    A planted control was searched for its own class alone: in the others the negatives stand among themselves.
    """
    if len(banks) == 1:
        return list(banks)
    n = banks[0].n
    alone = [keys_among_themselves(bank) for bank in banks]
    negatives = [[_own_keys(bank, i) for bank in banks] for i in range(n)]  # [negative][class]
    judged = []
    for b, bank in enumerate(banks):
        rows = []
        for i, row in enumerate(bank.rows):
            if i < n:
                own, others = negatives[i][b][0], [each[1:] for each in negatives[i]]
            else:
                found = _own_keys(bank, i)
                own, others = found[0], [found[1:] if k == b else alone[k] for k in range(len(banks))]
            rows.append(with_p_value(row, family_p_value(own, others), len(others[0])))
        judged.append(replace(bank, rows=rows))
    return judged


def examine_all(
    problems: Sequence[Problem], bench: Bench, subject: Network, banks: Sequence[Bank], alike: Resemblance, bar: Bar
) -> list[Examination]:
    """The subject in every class, and the verdicts. banks: as `as_family` gives them."""
    pairs = list(zip(problems, banks, strict=True))
    looks = [look(problem, bench, subject, bank) for problem, bank in pairs]
    if len(looks) > 1:
        found = [_keys(bank, seen.search, seen.row.confirmed) for bank, seen in zip(banks, looks, strict=True)]
        others = [each[1:] for each in found]
        looks = [_at(seen, family_p_value(own[0], others)) for seen, own in zip(looks, found, strict=True)]
    return [
        conclude(problem, bench, subject, bank, seen, alike, bar)
        for (problem, bank), seen in zip(pairs, looks, strict=True)
    ]


def examine_again(
    problem: Problem,
    bench: Bench,
    subject: Network,
    banks: Sequence[Bank],
    alike: Resemblance,
    bar: Bar,
) -> Examination:
    """Another subject in one class, its own bank the first: in the others the negatives stand among themselves."""
    bank, *others = banks
    seen = look(problem, bench, subject, bank)
    if others:
        own, *theirs = _keys(bank, seen.search, seen.row.confirmed)
        seen = _at(seen, family_p_value(own, [theirs, *(keys_among_themselves(other) for other in others)]))
    return conclude(problem, bench, subject, bank, seen, alike, bar)


def keys_among_themselves(bank: Bank) -> list[Key]:
    """Of the negatives, with nothing else in the comparison."""
    first = place(bank, bank.detections[0], 0)[0]
    return keys(_statistics(first), [row.confirmed for row in bank.rows[: bank.n]])


def with_p_value(row: NetworkRow, p_value: float, n: int) -> NetworkRow:
    """The row, judged by this p-value among n negatives."""
    return row.model_copy(update={"p_value": p_value, "found": row.confirmed and p_value <= 1 / (1 + n)})


def _at(seen: Look, p_value: float) -> Look:
    return replace(seen, row=with_p_value(seen.row, p_value, len(seen.search.negatives)))


def _own_keys(bank: Bank, i: int) -> list[Key]:
    """Of the bank's network i, first, and of the negatives that it stands among."""
    search, _ = place(bank, bank.detections[i], i if i < bank.n else None)
    return _keys(bank, search, bank.rows[i].confirmed, leaving_out=i)


def _keys(bank: Bank, search: Standing, confirmed: bool, leaving_out: int | None = None) -> list[Key]:
    flags = [row.confirmed for i, row in enumerate(bank.rows[: bank.n]) if i != leaving_out]
    return keys(_statistics(search), [confirmed, *flags])


def _statistics(search: Standing) -> NDArray[np.float64]:
    return np.array([search.statistic, *search.negatives])
