"""A program as text: one line for a reader, and `program.py`, which runs on its own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from candling.evidence.program import FORMULAS, Logic, Program, Steps, Table, features_of
from candling.evidence.solution import Exemplar

_HEAD = '''"""{what}

    python program.py DATA.npz     the answers to its array x, one a line
"""

from __future__ import annotations

import sys

import numpy as np

'''

_MAIN = """

if __name__ == "__main__":
    for answer in {call}:
        print(answer)
"""


def says(program: Program) -> str:
    """`1 if 4 <= (3 * a + 5 * b) % 31 <= 17, else 0`"""
    if isinstance(program, Logic):
        return f"1 if {_condition(program)}, else 0"
    if isinstance(program, Table) and set(program.answers) - {0, 1} == set() and program.other in (0, 1):
        return f"1 if {_condition(program)}, else 0"
    score = program.feature.written()
    if isinstance(program, Table):
        listed = ", ".join(f"{v}→{a}" for v, a in zip(program.values, program.answers, strict=True))
        return f"by {score}: {listed}, else {program.other}"
    if set(program.answers) <= {0, 1} and len(program.answers) > 1:
        return f"1 if {_condition(program)}, else 0"
    if not program.cuts:
        return f"always {program.answers[0]}"
    parts = [f"{a} below {_number(c)}" for a, c in zip(program.answers, program.cuts, strict=False)]
    return f"by {score}: {', '.join(parts)}, else {program.answers[-1]}"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _condition(program: Steps | Table | Logic) -> str:
    """When it says 1, in words that are almost code."""
    if isinstance(program, Logic):
        words = {"and": " and ", "or": " or ", "xor": " or else "}[program.join]
        joined = words.join(f"({_condition(part)})" for part in (program.first, program.second))
        return joined + (", not both" if program.join == "xor" else "")
    score = program.feature.written()
    if isinstance(program, Table):
        unlike = [v for v, a in zip(program.values, program.answers, strict=True) if a != program.other]
        if program.other == 1:  # so are all values that are not listed
            return f"{score} is none of {', '.join(map(str, unlike))}" if unlike else "always"
        return f"{score} is {' or '.join(map(str, unlike)) or 'none'}"
    spans = []
    ends = [-np.inf, *program.cuts, np.inf]
    for answer, low, high in zip(program.answers, ends, ends[1:], strict=False):
        if answer != 1:
            continue
        left = "" if low == -np.inf else f"{_at_least(low)} <= "
        right = "" if high == np.inf else _below(high)
        if left and right and left[: -len(" <= ")] == right.removeprefix(" <= "):
            spans.append(f"{score} = {right.removeprefix(' <= ')}")
        else:
            spans.append(f"{left}{score}{right}" if left and right else _one_sided(score, low, high))
    return " or ".join(spans) or "never"


def _one_sided(score: str, low: float, high: float) -> str:
    if low == -np.inf:
        return f"{score}{_below(high)}"
    return f"{score} >= {_at_least(low)}"


def _at_least(cut: float) -> str:
    """Cuts between whole numbers are told as whole numbers."""
    return str(int(cut + 0.5)) if (cut * 2) % 2 == 1 else _number(cut)


def _below(cut: float) -> str:
    return f" <= {int(cut - 0.5)}" if (cut * 2) % 2 == 1 else f" < {_number(cut)}"


def program_source(program: Program, what: str, exemplars: Sequence[Exemplar] = ()) -> str:
    """The text of `program.py`."""
    kind = features_of(program)[0].kind
    concepts = any(feature.formula == "concept" for feature in features_of(program))
    arguments = "a, b" if kind == "pairs" else "x, c" if concepts else "x"
    lines, result = [], []
    parts = [program.first, program.second] if isinstance(program, Logic) else [program]
    for number, part in enumerate(parts):
        name = "score" if len(parts) == 1 else f"score_{number + 1}"
        lines.append(f"    {name} = {part.feature.written()}")
        result.append(_answer(part, name))
    if isinstance(program, Logic):
        sign = {"and": "&", "or": "|", "xor": "^"}[program.join]
        lines.append(f"    return (({result[0]}) == 1).astype(int) {sign} (({result[1]}) == 1).astype(int)")
    else:
        lines.append(f"    return {result[0]}")
    body = f'def program({arguments}):\n    """{says(program)}"""\n' + "\n".join(lines) + "\n"
    load = f'np.load(sys.argv[1])["x"].astype({"float" if kind == "images" else "int"})'
    call = f"program(*{load}.T[:2])" if kind == "pairs" else f"program({load})"
    if kind == "images":
        grey = f"(lambda x: x.mean(1) if x.ndim == 4 else x)({load})"
        columns = "np.concatenate([v.reshape(len(v), -1) for _, v in sorted(np.load(sys.argv[2]).items())], axis=1)"
        call = f"program({grey}, {columns})" if concepts else f"program({grey})"
    plain = re.sub(r'"""|\\', "'", what)
    return _HEAD.format(what=plain) + _images(exemplars) + _helpers(program) + "\n" + body + _MAIN.format(call=call)


def _images(exemplars: Sequence[Exemplar]) -> str:
    """The exemplars by row, a line of numbers for each line of pixels."""
    if not exemplars:
        return ""
    rows = [
        f"    {each.row}: np.array([\n"
        + "".join(f"        [{', '.join(f'{pixel:.6g}' for pixel in line)}],\n" for line in each.pixels)
        + "    ]),\n"
        for each in exemplars
    ]
    return "e = {\n" + "".join(rows) + "}\n\n"


def _answer(part: Steps | Table, name: str) -> str:
    if isinstance(part, Table):
        if set(part.answers) <= {0, 1} and part.other == 0:
            ones = [v for v, a in zip(part.values, part.answers, strict=True) if a == 1]
            return f"np.isin({name}, {ones}).astype(int)"
        table = dict(zip(part.values, part.answers, strict=True))
        return f"np.vectorize({table}.get, otypes=[int])({name}, {part.other})"
    if not part.cuts:
        return f"np.full(len({name}), {part.answers[0]})"
    return f"np.array({list(part.answers)})[np.searchsorted({list(part.cuts)}, {name}, side='right')]"


def _helpers(program: Program) -> str:
    """The source of the functions that its formulas call, and of those that they call."""
    wanted: dict[str, str] = {}

    def add(text: str, module: ModuleType) -> None:
        for name in re.findall(r"\b([a-z_]+)\(", text):
            function = getattr(module, name, None)
            if name not in wanted and inspect.isfunction(function):
                wanted[name] = ""  # before its own calls, so that none is looked at twice
                source = re.sub(r"  # type: ignore\[.*?\]", "", inspect.getsource(function))
                add(source, module)
                wanted[name] = source

    for feature in features_of(program):
        formula = FORMULAS[feature.kind][feature.formula]
        if formula.helpers is not None:
            add(formula.code, formula.helpers)
    return "".join(f"\n{source}\n" for source in wanted.values())
