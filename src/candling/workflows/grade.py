"""Grade: every technique of a question on the same organisms, blind; the truth joins only when they are marked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from candling._version import VERSION
from candling.errors import InputError
from candling.evidence.card import Card, Grades
from candling.runs.jobs import Progress, run_jobs, silent
from candling.workflows.exams import circuits, flagging, searching

LEAST = 9
"""Organisms of an exam: three clean ones and six with a plant."""


@dataclass(frozen=True)
class Exam:
    """How one question is examined."""

    sit: Callable[[int, int], Any]
    """(number, seed) → what every technique gave on one organism, in a job"""
    mark: Callable[[list[Any]], list[Card]]


EXAMS: Mapping[str, Exam] = {
    "flag": Exam(flagging.sit, flagging.mark),
    "locate": Exam(circuits.sit, circuits.mark),
    "search": Exam(searching.sit, searching.mark),
}


def grade(
    questions: Sequence[str] = tuple(EXAMS),
    *,
    subjects: int = 18,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = silent,
) -> Grades:
    """Cards for every technique of these questions, the null and the black-box baseline among them.

    subjects: organisms, a third of them clean. Raises InputError for an unknown question or fewer than nine.
    """
    for question in questions:
        if question not in EXAMS:
            raise InputError("question", f"no exam for {question!r}: choose from {', '.join(EXAMS)}")
    if subjects < LEAST:
        raise InputError("subjects", f"{subjects} organisms tell nothing: give at least {LEAST}")
    cards = []
    for question in dict.fromkeys(questions):
        exam = EXAMS[question]
        jobs = [(number, seed) for number in range(subjects)]
        sittings = run_jobs(exam.sit, jobs, stage=f"grading {question}", workers=workers, progress=progress)
        cards += exam.mark(sittings)
    return Grades(candling=VERSION, seed=seed, subjects=subjects, cards=cards)
