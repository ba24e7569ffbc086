"""Problem classes: one file each names its plants and defines detect, confirm and locate."""

from candling.problems.backdoor import BACKDOOR
from candling.problems.contract import Bench, Candidate, Confirmation, Detection, Problem, Rival, Thirds
from candling.problems.controls import Network, make_negatives, make_positives

PROBLEMS: dict[str, Problem] = {BACKDOOR.name: BACKDOOR}

__all__ = [
    "PROBLEMS",
    "Bench",
    "Candidate",
    "Confirmation",
    "Detection",
    "Network",
    "Problem",
    "Rival",
    "Thirds",
    "make_negatives",
    "make_positives",
]
