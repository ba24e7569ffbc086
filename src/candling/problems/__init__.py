"""Problem classes: one file each names its plants and defines detect, confirm and locate; a kind holds its own."""

from candling.problems.candidates import Candidate, Language, Thirds
from candling.problems.classifiers import CLASSIFIER
from candling.problems.contract import Bench, Kind, Problem
from candling.problems.controls import Network, make_negatives, make_positives
from candling.problems.language import LANGUAGE
from candling.problems.outcomes import Confirmation, Detection, Lead, Rival, Searched, Sought, Trigger
from candling.problems.regressors import kind_for
from candling.problems.sensors import SENSORS

__all__ = [
    "CLASSIFIER",
    "LANGUAGE",
    "SENSORS",
    "Bench",
    "Candidate",
    "Confirmation",
    "Detection",
    "Kind",
    "Language",
    "Lead",
    "Network",
    "Problem",
    "Rival",
    "Searched",
    "Sought",
    "Thirds",
    "Trigger",
    "kind_for",
    "make_negatives",
    "make_positives",
]
