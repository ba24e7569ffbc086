"""The page of an explanation: one HTML file, offline, drawn from the record alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.control import RunInfo
from candling.evidence.explanation import CircuitRecord, Explanation
from candling.report import numerals
from candling.report.circuit_drawing import draw_circuit, name_of
from candling.report.heat_map import HeatMap, over_heads, over_tokens
from candling.report.kept_curve import draw_kept
from candling.report.page import LISTED, environment
from candling.report.text import terminal_safe
from candling.report.tokens import chip, marked
from candling.report.view import Figure

EDGES = 40
"""Edges in the table."""


@dataclass(frozen=True)
class EdgeLine:
    sender: str
    receiver: str
    effect: str
    score: str


def draw_explanation(said: Explanation, arrays: Mapping[str, NDArray[Any]], info: RunInfo) -> str:
    """One HTML page. Maps whose arrays are missing are left out."""
    residual, heads = maps(said, arrays)
    found, checked = said.circuit, said.check
    return (
        environment()
        .get_template("explain.html.j2")
        .render(
            said=said,
            info=info,
            headline=headline(said),
            reason=reason(said),
            figures=figures(said),
            answers=[(chip(own), chip(wrong)) for own, wrong in said.behaviour.answers[:EDGES]],
            residual=residual,
            heads=heads,
            levels=range(11),
            drawing=draw_circuit(found),
            edges=edge_lines(found),
            edges_left=max(0, found.edges - EDGES),
            curve=draw_kept(found),
            untrained=untrained_words(found),
            missed=[(name_pair(miss.part), miss) for miss in checked.missed[:EDGES]],
            missed_left=max(0, len(checked.missed) - EDGES),
            unidentified=[name_of(name) for name in checked.unidentified[:LISTED]],
            unidentified_left=max(0, len(checked.unidentified) - LISTED),
            settings=[(name, value) for name, value in sorted(info.settings.items()) if value is not None][:LISTED],
        )
    )


def maps(said: Explanation, arrays: Mapping[str, NDArray[Any]]) -> tuple[HeatMap | None, HeatMap | None]:
    """Over tokens and over heads, where their arrays are whole."""
    residual, heads = arrays.get("residual"), arrays.get("heads")
    return (
        over_tokens(residual, said.places, said.skipped) if _plane(residual) and residual is not None else None,
        over_heads(heads) if _plane(heads) and heads is not None else None,
    )


def _plane(values: NDArray[Any] | None) -> bool:
    return values is not None and values.ndim == 2 and values.size > 0 and np.issubdtype(values.dtype, np.floating)


def headline(said: Explanation) -> str:
    """The result in one sentence."""
    found = said.circuit
    kept, random = (numerals.percent(share, 0) for share in (found.faithfulness, found.random))
    verb = "edge keeps" if found.edges == 1 else "edges keep"
    return (
        f"{found.edges:,} of {found.of:,} {verb} {kept} of this behaviour on prompts that were not used to find "
        f"them; random circuits of that size keep {random}"
    )


def reason(said: Explanation) -> str:
    """What the behaviour is, and how firmly the network shows it."""
    seen = said.behaviour
    return (
        f"After the clean prompts the answer's logit lies {numerals.number(seen.clean)} above the wrong one's, after "
        f"the corrupt ones {numerals.number(seen.corrupt)}; both come out right in {numerals.percent(seen.right, 0)} "
        f"of {seen.pairs:,} pairs. Everything below is a share of that difference: 100 % is all of it."
    )


def figures(said: Explanation) -> list[Figure]:
    """The five numbers that a reader who stops here should take away."""
    found, checked, seen = said.circuit, said.check, said.behaviour
    missed = f"{len(checked.missed)} of {checked.important} that matter missed"
    passes = said.cost.forward + said.cost.backward
    return [
        Figure("Edges", f"{found.edges:,}", f"{numerals.percent(found.edges / max(1, found.of))} of {found.of:,}"),
        Figure("Kept", numerals.percent(found.faithfulness, 0), f"on {seen.pairs - seen.finding:,} held-out pairs"),
        Figure(
            "Random circuits", numerals.percent(found.random, 0), f"at most {numerals.percent(found.random_most, 0)}"
        ),
        Figure("Estimate and truth", numerals.number(checked.pearson), f"correlation; {missed}"),
        Figure("Passes", f"{passes:,}", f"{said.cost.backward:,} of them backward, one prompt each"),
    ]


def edge_lines(found: CircuitRecord) -> list[EdgeLine]:
    """The strongest edges as rows of a table."""
    return [
        EdgeLine(
            name_of(row.sender),
            name_of(row.receiver),
            "not measured" if row.effect is None else numerals.percent(row.effect),
            numerals.percent(row.score),
        )
        for row in found.rows[:EDGES]
    ]


def name_pair(part: str) -> str:
    return " → ".join(name_of(name) for name in part.split(" → "))


def untrained_words(found: CircuitRecord) -> str:
    """What the control with fresh weights says."""
    if found.untrained_gap is None:
        return "A network with fresh weights does not tell these prompts apart, so there is nothing to find in it."
    near = min(found.untrained, key=lambda point: abs(point.edges - found.edges), default=None)
    gap = f"In a network with fresh weights the same prompts differ by {numerals.number(found.untrained_gap)}"
    if near is None:
        return f"{gap}."
    kept = numerals.percent(near.held_out, 0)
    return f"{gap}; {near.edges:,} edges found in it in the same way keep {kept} of that."


def summary(said: Explanation) -> list[str]:
    """Lines for a terminal: safe to print."""
    seen, checked = said.behaviour, said.check
    answers = ", ".join(f"{marked(own)} rather than {marked(wrong)}" for own, wrong in seen.answers[:3])
    lines = [
        headline(said) + ".",
        f"Behaviour: {answers}; logit difference {numerals.number(seen.clean)} clean, "
        f"{numerals.number(seen.corrupt)} corrupt; right in {numerals.percent(seen.right, 0)} of {seen.pairs} pairs.",
        f"Attribution against exact patching: correlation {numerals.number(checked.pearson)} on {checked.parts:,} of "
        f"{checked.of:,} edges, {len(checked.missed)} of {checked.important} that matter missed.",
    ]
    return [terminal_safe(line) for line in lines]
