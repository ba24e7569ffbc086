"""What an explanation of one behaviour says: its page is drawn from this and its claims replayed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.claim import Claim
from candling.evidence.measurement import Cost, Record


class Behaviour(Record):
    """The metric on the pairs: the answer's logit less the wrong one's."""

    metric: str
    clean: float
    """Averaged over held-out pairs."""
    corrupt: float
    right: float
    """Share of all pairs in which the clean prompt prefers the answer and the corrupt one the wrong answer."""
    pairs: int
    finding: int
    """Pairs that the circuit was found on; the others are held out."""
    answers: list[tuple[str, str]]
    """The first few pairs of answer and wrong answer, as tokens."""


class Place(Record):
    """A position of the prompts that the heat map shows."""

    clean: str
    """Its token in the first pair, white space and all."""
    corrupt: str
    same: bool
    """Do clean and corrupt prompts agree here in every pair shown?"""
    tokens: int
    """How many different clean tokens stand here over the pairs shown."""


class Heat(Record):
    """Labels of a map; its values are an array of the same name, as a share of the gap: 1 moves all of it."""

    name: str
    rows: list[str]
    """Layers, the first at the bottom."""
    columns: list[str]
    pairs: int
    """How many pairs it averages."""


class EdgeRow(Record):
    """An edge of the circuit."""

    sender: str
    receiver: str
    effect: float | None
    """Change of the metric, exactly measured, when it alone is cut from the whole network; as a share of the gap."""
    score: float
    """What the attribution says of it, as a share of the gap."""


class CurvePoint(Record):
    """Circuits of one size; faithfulness as a share of the gap."""

    edges: int
    finding: float
    held_out: float
    random: float
    random_most: float


class UntrainedPoint(Record):
    edges: int
    held_out: float


class CircuitRecord(Record):
    edges: int
    """Of the circuit."""
    of: int
    """Of the whole graph."""
    heads: list[int]
    """Query heads of each layer."""
    groups: list[int]
    """Key-value heads of each layer."""
    mlps: list[bool]
    parallel: list[bool]
    faithfulness: float
    """On held-out pairs."""
    random: float
    """Mean of random circuits of as many edges."""
    random_most: float
    error: float
    """Pair by pair, on held-out pairs: 0 is none, 1 what no edge at all gives."""
    rows: list[EdgeRow]
    """The strongest first."""
    curve: list[CurvePoint]
    """The smallest first."""
    untrained: list[UntrainedPoint]
    untrained_gap: float | None
    """Clean less corrupt in a network of fresh weights; None where it was not tried or tells nothing apart."""


class MissRow(Record):
    part: str
    exact: float
    scored: float


class CheckRecord(Record):
    """The attribution beside exact patching; effects as a share of the gap."""

    technique: str
    parts: int
    of: int
    pearson: float
    important: int
    missed: list[MissRow]
    unidentified: list[str]
    """Senders that the pairs cannot tell apart."""


class Explanation(Record):
    """`explanation.json`. Byte for byte the same for the same inputs and seed."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    candling: str
    weights: str
    """SHA-256 of the model's tensors."""
    architecture: str
    pairs: str
    """SHA-256 of the pairs as token ids."""
    seed: int
    difference: float
    """The largest difference between a logit of the parts and the whole network's."""
    behaviour: Behaviour
    places: list[Place]
    skipped: int
    """Positions left of the first that differs: nothing there can matter."""
    maps: list[Heat]
    circuit: CircuitRecord
    check: CheckRecord
    cost: Cost
    """In passes of one prompt; those of the graph are counted as one."""
    limits: list[str]
    """What it cannot say."""
    claims: list[Claim]
