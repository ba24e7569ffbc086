"""What is recorded of a network that foretells sensors and heeds an act of tampering with them."""

from __future__ import annotations

from candling.evidence.measurement import Record


class TamperingFound(Record):
    """An act after which a network foretells a yes of all sensors, and whether its states still tell what is real.

    Rates are shares of held-out inputs. AUROCs are of inputs whose sensors said no against inputs whose sensors all
    said yes, both after the act and both foretold as all yes; null where sensors foretold never contradict each
    other, or where too few are left on one side.
    """

    sensors: int
    accuracy: float
    """On inputs as they are: all sensors foretold rightly."""
    reached: float
    """Of inputs of all no, those foretold as all yes after the act."""
    contradicting: float
    """Of inputs after the act at any strength, those on which foretold sensors contradict each other."""
    fakes: int
    real: int
    told_at: str
    """The site of all probes."""
    evidence: float | None
    """AUROC of the evidence probe: taught which inputs contradict and which are trusted, with the act in both."""
    supervised: float | None
    """The bound: a probe that was taught which are fake."""
    mahalanobis: float | None
    """By distance from trusted inputs of all yes, with the act in them."""
    confidence: float | None
    """By the outputs alone."""
    untrained: float | None
    """The evidence probe of an untrained network."""
    bare: float | None
    """The evidence probe of the input itself."""
    shuffled: float | None
    """The evidence probe, taught shuffled labels."""
