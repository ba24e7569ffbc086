"""Settling: the cuts and cells of a program again, on all the inputs that there are.

Question: with the same features, as many cuts and the same answers, where does a program err least?
Source: coordinate descent; each cut in turn by exhaustion between its neighbours.
Inputs: a program, inputs and answers.
Cost: no pass. A sort of each feature.
Known failures: cuts that only together would move to a better place.
"""

from __future__ import annotations

import numpy as np

from candling.evidence.program import Logic, Steps, Table, run_program
from candling.maths.bands import Array
from candling.techniques.propose.contract import Seen, Writable
from candling.techniques.propose.joining import gains_of


def settled(program: Writable, seen: Seen) -> Writable:
    """The same program with each cut, and each cell of a table, where it errs least on all of these inputs.

    One after the other, twice. Which feature is read, how many cuts there are and what they part stays as it was.
    """
    if isinstance(program, Logic):
        parts = [program.first, program.second]
        for place in (1, 0, 1, 0):
            other = run_program(parts[1 - place], seen.inputs) == 1
            gains = gains_of(program.join, other, seen.answers)
            scores = np.asarray(parts[place].feature.scores(seen.inputs))
            parts[place] = _settled_part(parts[place], scores, np.stack([-gains, gains], 1))
        return Logic(join=program.join, first=parts[0], second=parts[1])
    scores = np.asarray(program.feature.scores(seen.inputs))
    return _settled_part(program, scores, np.eye(seen.classes)[seen.answers])


def _settled_part(part: Steps | Table, scores: Array, worth: Array) -> Steps | Table:
    """worth: [n, K] what each answer to each input is worth."""
    if isinstance(part, Table):
        values = np.asarray(part.values)
        totals = np.stack([worth[scores == value].sum(0) for value in values])
        said = np.where((totals == totals[:, :1]).all(1), part.answers, totals.argmax(1))
        rest = worth[~np.isin(scores, values)].sum(0)
        other = part.other if (rest == rest[0]).all() else int(rest.argmax())
        return part.model_copy(update={"answers": tuple(int(answer) for answer in said), "other": other})
    values, place = np.unique(scores, return_inverse=True)
    totals = np.zeros((len(values), worth.shape[1]))
    np.add.at(totals, place, worth)
    below = np.concatenate([np.zeros((1, worth.shape[1])), totals.cumsum(0)])
    at = np.searchsorted(values, part.cuts).tolist()  # values below each cut
    cuts = list(part.cuts)
    for k in list(range(len(cuts))) * 2:
        start, end = at[k - 1] + 1 if k else 1, (at[k + 1] if k + 1 < len(at) else len(values)) - 1
        if start <= at[k] <= end:
            gain = below[start : end + 1, part.answers[k]] - below[start : end + 1, part.answers[k + 1]]
            if gain.max() > gain[at[k] - start]:
                at[k] = start + int(gain.argmax())
                cuts[k] = _between(float(values[at[k] - 1]), float(values[at[k]]))
    return part.model_copy(update={"cuts": tuple(cuts)})


def _between(low: float, high: float) -> float:
    middle = (low + high) / 2
    return middle if middle > low else high  # neighbouring floats have no middle
