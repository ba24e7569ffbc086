"""A sentence that a third party can run again: what to do, what comes out, how near it must be."""

from __future__ import annotations

from typing import Literal

from candling.evidence.measurement import Record


class Claim(Record):
    """`replay` re-executes `kind` on the record and the hashed inputs and compares with `predicted`."""

    id: str
    kind: Literal[
        "inputs",
        "search",
        "rank",
        "success",
        "random",
        "transfer",
        "located",
        "sensitivity",
        "circuit",
        "agreement",
        "diagnostic",
        "site",
        "group",
    ]
    problem: str
    sentence: str
    predicted: float
    tolerance: float


class Replayed(Record):
    """One claim after it was run again."""

    claim: Claim
    observed: float | None
    """None when the claim could not be run."""
    holds: bool
    note: str = ""
