"""What a network was found to compute: its page is drawn from this and its claims replayed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from candling.evidence.claim import Claim
from candling.evidence.measurement import Cost, Rate, Record
from candling.evidence.program import Kind, Program

Outcome = Literal["solved", "behaviour only", "not solved", "did not learn a program"]


class RivalRow(Record):
    name: str
    program: Program | None
    """None for a linear model or a tree, which says nothing of what it computes."""
    agreement: Rate
    """Of the network with it."""
    sides: Rate
    """Where it and the program differ: how often the network answers as the program does."""
    refuted: bool | None
    """None where there are too few such inputs to tell."""


class NullRow(Record):
    name: str
    agreement: Rate


class ThreeWay(Record):
    """Network, program and truth on one part of the data."""

    part: str
    network_program: Rate
    network_truth: Rate | None
    program_truth: Rate | None


class Difference(Record):
    """An input on which network and program differ."""

    row: int
    """In the data."""
    shown: str
    network: int
    program: int
    margin: float
    """Of the network's first answer over its second, in logits."""


class Histogram(Record):
    """A score of the program over the verifying inputs, by what the network answers."""

    score: str
    edges: list[float]
    """One more than there are bins."""
    counts: list[list[int]]
    """By bin, by the network's answer."""


class Exemplar(Record):
    """An image that the program names."""

    row: int
    """Of the data."""
    pixels: list[list[float]]


class Curve(Record):
    """Dose and response: what part of the answers is 1 when the claimed units come from a donor of each score."""

    scores: list[float]
    """The donors' program score, the middle of each bin."""
    forecast: list[float]
    """By the program."""
    observed: list[float]
    n: list[int]


class Site(Record):
    """Where the program's answer is carried, and what shows it."""

    site: str
    units: list[int]
    of: int
    ablated: Rate
    """Agreement with the program when the units are resampled."""
    ablated_others: Rate
    """The same with as many random other units: the mean of several draws."""
    overlap: float
    """Share of those random units that are claimed ones, forced where more than half the units are claimed."""
    follows: Rate
    """Patched with a donor of another answer, the output takes the donor's."""
    follows_random: Rate
    """The same with as many random other units."""
    stays: Rate
    """With all other units patched, the output stays."""
    forecast: Rate
    """Answers after patching as the program forecasts them, on pairs where it or the network predicts a change."""
    curve: Curve
    passed: bool
    reason: str


class Solution(Record):
    """`solution.json`. Byte for byte the same for the same inputs and seed."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    candling: str
    weights: str
    """SHA-256 of the model's tensors."""
    architecture: str
    data: str
    """SHA-256 of the inputs."""
    seed: int
    kind: Kind
    inputs: int
    proposing: int
    """Inputs that programs were proposed on; the others verify."""
    classes: int
    outcome: Outcome
    reason: str
    program: Program | None
    says: str
    """The program in one line."""
    bits: float
    tried: int
    """Features that were looked at."""
    agreement: Rate | None
    confident: Rate | None
    histograms: list[Histogram]
    """One for each score that the program reads."""
    sides: list[int]
    """Of the grid of pairs; empty for other inputs."""
    exemplars: list[Exemplar]
    nulls: list[NullRow]
    rivals: list[RivalRow]
    parts: list[ThreeWay]
    differences: list[Difference]
    different: int
    """Of the verifying inputs, how many network and program answer differently."""
    site: Site | None
    cost: Cost
    limits: list[str]
    claims: list[Claim]
