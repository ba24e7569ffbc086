"""What was measured: a number with its interval and how many examples it rests on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of everything written to a run folder: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Rate(Record):
    """A proportion in [0, 1] with its 95 % interval.

    Exact binomial (Clopper and Pearson 1934) unless the field that holds it says otherwise.
    """

    value: float
    low: float
    high: float
    n: int
    """Number of examples or networks behind it."""


class Cost(Record):
    """Compute spent, in network passes of one example each; the same on every machine."""

    forward: int
    backward: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(forward=self.forward + other.forward, backward=self.backward + other.backward)
