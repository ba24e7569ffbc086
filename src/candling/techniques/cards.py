"""The cards that techniques carry: what they scored in the last sitting whose results are kept here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from candling.evidence.card import Grades
from candling.techniques.flag import DETECTORS, OF_ATTRIBUTIONS, Fit


@cache
def cards() -> Grades:
    """Written by `candling grade`; an audit reads from here which technique to use."""
    return Grades.model_validate_json(files("candling.techniques").joinpath("cards.json").read_text("utf-8"))


@dataclass(frozen=True)
class Chosen:
    """The detector of odd inputs with the best card."""

    name: str
    fit: Fit
    attributions: bool


def best_detector() -> Chosen:
    """Fixed before any run: the exam was on other networks than the subject."""
    name = cards().best("flag").technique
    plain = name.removesuffix(OF_ATTRIBUTIONS)
    return Chosen(name, DETECTORS[plain], plain != name)
