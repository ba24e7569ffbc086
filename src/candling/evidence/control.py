"""One row a network: what was planted in it (positives), how it was trained, and what the gates said of it."""

from __future__ import annotations

from typing import Literal

from candling.evidence.measurement import Record


class Plant(Record):
    """What was hidden in a positive control. Written after detection; no detection job ever receives it."""

    family: str
    """Pattern and mapping, e.g. `patch, all-to-one`."""
    dose: float
    """Position in the family's published range, 0 to 1."""
    physical: str
    """The same dose in its own unit, e.g. `side 3 px, contrast 0.8`."""
    rate: float
    """Share of the training rows that carried it."""
    success: float
    """On held-out rows of the confirm third."""
    took: bool
    attempts: int


class NetworkRow(Record):
    """A network of the run: the subject or a control."""

    problem: str
    name: str
    """`subject`, `negative-07`, `positive-12`."""
    role: Literal["subject", "negative", "positive"]
    recipe: str
    """How a control was trained; `given` for the subject."""
    weights: str
    """SHA-256 of the weights."""
    loss: float
    """Cross-entropy on the search third, nats; of values, the squared error over their variance."""
    accuracy: float
    """On the search third, or what stands for it: see `Data.measure`."""
    plant: Plant | None
    statistic: float
    """Maximum over parts of the standard score against the same part in the other networks (gate 1)."""
    search_p_value: float
    """By that statistic alone."""
    p_value: float
    """By the whole procedure: leads that gate 2 refutes rank below those that it passes."""
    lead: str
    """The part with that maximum, e.g. `all-to-one, patch → 3`."""
    lead_size: float
    baseline_statistic: float
    baseline_p_value: float
    success: float
    """Gate 2: the lead's trigger on the confirm third."""
    success_of_random_trigger: float
    success_in_controls: float
    best_in_controls: float
    confirmed: bool
    """Gate 2 passed."""
    found: bool
    """Both gates passed."""


class Networks(Record):
    """`networks.json`: every network of the run, the subject first."""

    rows: list[NetworkRow]


class RunInfo(Record):
    """`run.json`: how and where the run was made. The only file that holds times and paths."""

    candling: str
    model: str
    """What was given: `net.py:build`, `sample:backdoor`, or `module in memory`."""
    weights: str | None
    trusted: str
    reference: str | None = None
    untrusted: str | None = None
    legitimate: str | None = None
    metric: str | None = None
    tokenizer: str | None = None
    """Of a decoder of the user's own."""
    notes: tuple[str, ...] = ()
    """What was dropped or passed over when the inputs were opened."""
    settings: dict[str, str | int | float | None]
    seconds: float
    threads: int
    python: str
    torch: str
