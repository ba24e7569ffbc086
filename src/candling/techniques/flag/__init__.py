"""Which inputs are unusual? → Flags

Language models: `flag_called_up`, and `Difference` of states. Any network: `flag_inputs` with one of the `DETECTORS`,
of which `confidence`, the black-box baseline, sees outputs alone and `chance` nothing. Networks that foretell
sensors: `flag_tampering`.
"""

from collections.abc import Mapping

from candling.techniques.flag.called_up import flag_called_up
from candling.techniques.flag.chance import chance
from candling.techniques.flag.confidence import confidence
from candling.techniques.flag.contract import Fit, Flags, Scoring
from candling.techniques.flag.difference import Difference
from candling.techniques.flag.evidence import flag_tampering
from candling.techniques.flag.inputs import flag_inputs, states_of
from candling.techniques.flag.local_outlier import local_outlier
from candling.techniques.flag.mahalanobis import mahalanobis
from candling.techniques.flag.nearest_neighbours import nearest_neighbours
from candling.techniques.flag.quantum_entropy import quantum_entropy
from candling.techniques.flag.relative_mahalanobis import relative_mahalanobis
from candling.techniques.flag.spectral import spectral

OF_ATTRIBUTIONS = ", of attributions"
"""How a detector is called when it sees attributions in place of states."""

DETECTORS: Mapping[str, Fit] = {
    "Mahalanobis": mahalanobis,
    "relative Mahalanobis": relative_mahalanobis,
    "nearest neighbours": nearest_neighbours,
    "local outlier factor": local_outlier,
    "spectral": spectral,
    "quantum entropy": quantum_entropy,
    "confidence": confidence,
    "random": chance,
}

__all__ = [
    "DETECTORS",
    "OF_ATTRIBUTIONS",
    "Difference",
    "Fit",
    "Flags",
    "Scoring",
    "chance",
    "confidence",
    "flag_called_up",
    "flag_inputs",
    "flag_tampering",
    "local_outlier",
    "mahalanobis",
    "nearest_neighbours",
    "quantum_entropy",
    "relative_mahalanobis",
    "spectral",
    "states_of",
]
