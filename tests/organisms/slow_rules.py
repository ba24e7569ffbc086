"""Every rule of the problems once more, as loops over plain Python numbers, from the words that describe it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

Row = Any
"""Images: 8 lists of 8 numbers; pairs: [a, b]; sequences: a list of tokens."""


def inside(score: float, own: dict[str, Any]) -> int:
    return int(own["low"] <= score <= own["high"])


def cells(row: Row) -> list[float]:
    return [value for line in row for value in line]


def nearness(row: Row, own: dict[str, Any]) -> int:
    x, e = cells(row), cells(own["exemplar"].tolist()[0])
    both = list(zip(x, e, strict=True))
    product = sum(a * b for a, b in both)
    scores = {
        "dot": lambda: product,
        "signed": lambda: sum(a * (2 * b - 1) for a, b in both),
        "l1": lambda: sum(abs(a - b) for a, b in both),
        "l2": lambda: math.dist(x, e),
        "cosine": lambda: product / math.hypot(*x) / math.hypot(*e),
    }
    return inside(scores[own["score"].__name__](), own)


def ink(row: Row, box: tuple[int, int, int, int]) -> float:
    return sum(row[i][j] for i in range(box[0], box[1]) for j in range(box[2], box[3]))


def joined(how: str, first: bool, second: bool) -> int:
    return int({"and": first and second, "or": first or second, "xor": first != second}[how])


def region_logic(row: Row, own: dict[str, Any]) -> int:
    first, second = (ink(row, own[which]) >= own[f"{which}_least"] for which in ("first", "second"))
    return joined(own["how"], first, second)


def unlike_mirror(row: Row, own: dict[str, Any]) -> int:
    where = {
        "left and right": lambda i, j: (i, 7 - j),
        "top and bottom": lambda i, j: (7 - i, j),
        "a half turn": lambda i, j: (7 - i, 7 - j),
        "the diagonal": lambda i, j: (j, i),
    }[own["mirror"]]
    other = [[row[where(i, j)[0]][where(i, j)[1]] for j in range(8)] for i in range(8)]
    return int(sum(abs(a - b) for a, b in zip(cells(row), cells(other), strict=True)) <= own["most"])


def arc(row: Row, own: dict[str, Any]) -> int:
    reached = [(own["start"] + step) % own["p"] for step in range(own["length"])]
    return int((own["u"] * row[0] + own["v"] * row[1]) % own["p"] in reached)


def residue_cell(row: Row, own: dict[str, Any]) -> int:
    table = own["table"].tolist()
    return int(table[row[0] % len(table)][row[1] % len(table[0])])


def quadratic(row: Row, own: dict[str, Any]) -> int:
    a, b = row
    return inside(own["u"] * a**2 + own["v"] * a * b + own["w"] * b**2, own)


def amount(row: Row, tokens: tuple[int, ...]) -> int:
    return sum(token in tokens for token in row)


def stands_before(row: Row, own: dict[str, Any]) -> int:
    for token in row:
        if token in (own["first"], own["second"]):
            return int(token == own["first"])
    return 0


def mirror_mismatches(row: Row, own: dict[str, Any]) -> int:
    return inside(sum(row[i] != row[-1 - i] for i in range(len(row) // 2)), own)


def shift_mismatches(row: Row, own: dict[str, Any]) -> int:
    return inside(sum(row[i] != row[i + own["by"]] for i in range(len(row) - own["by"])), own)


def bigrams_counted(row: Row, own: dict[str, Any]) -> int:
    return inside(sum(int(own["table"][row[i], row[i + 1]]) for i in range(len(row) - 1)), own)


def first_unique_in(row: Row, own: dict[str, Any]) -> int:
    times = Counter(row)
    return next((int(token in own["tokens"]) for token in row if times[token] == 1), 0)


def walk_height(row: Row, own: dict[str, Any]) -> int:
    height = best = 0
    for token in row:
        height += 1 if token in own["up"] else -1
        best = max(best, height)
    return inside(best, own)


SLOW: dict[str, Callable[[Row, dict[str, Any]], int]] = {
    "nearness": nearness,
    "region_sum": lambda row, own: inside(ink(row, own["box"]), own),
    "region_comparison": lambda row, own: int(ink(row, own["first"]) > ink(row, own["second"])),
    "region_logic": region_logic,
    "unlike_mirror": unlike_mirror,
    "residue_cell": residue_cell,
    "residue_of_sum": lambda row, own: int((own["u"] * row[0] + own["v"] * row[1]) % own["m"] in own["chosen"]),
    "arc": arc,
    "block_cell": lambda row, own: int(own["table"][row[0] // own["side"], row[1] // own["side"]]),
    "divides": lambda row, own: joined(own["how"], row[0] % own["m"] == 0, row[1] % own["n"] == 0),
    "linear": lambda row, own: inside(own["u"] * row[0] + own["v"] * row[1], own),
    "apart": lambda row, own: inside(abs(row[0] - row[1]), own),
    "quadratic": quadratic,
    "residue_less": lambda row, own: int(row[0] % own["m"] < row[1] % own["n"]),
    "counted": lambda row, own: inside(amount(row, own["tokens"]), own),
    "counts_differ": lambda row, own: inside(amount(row, own["more"]) - amount(row, own["less"]), own),
    "summed": lambda row, own: inside(sum(row), own),
    "sum_residue": lambda row, own: int(sum(row) % own["m"] in own["chosen"]),
    "stands_before": stands_before,
    "mirror_mismatches": mirror_mismatches,
    "shift_mismatches": shift_mismatches,
    "bigrams_counted": bigrams_counted,
    "first_unique_in": first_unique_in,
    "walk_height": walk_height,
}
"""By the name of the fast function; `digit_in` reads no pixels and is tested by itself."""
