"""The cards that techniques carry: what they scored in the last sitting whose results are kept here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from candling.evidence.card import Grades


@cache
def cards() -> Grades:
    """Written by `candling grade`; an audit reads from here which technique to use."""
    return Grades.model_validate_json(files("candling.techniques").joinpath("cards.json").read_text("utf-8"))
