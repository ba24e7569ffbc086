"""Problem classes: one file each names its plants and defines detect, confirm and locate; a kind holds its own."""

from candling.problems.classifiers import CLASSIFIER
from candling.problems.contract import (
    Bench,
    Candidate,
    Confirmation,
    Detection,
    Kind,
    Language,
    Problem,
    Rival,
    Sought,
    Thirds,
    Trigger,
)
from candling.problems.controls import Network, make_negatives, make_positives
from candling.problems.language import LANGUAGE

__all__ = [
    "CLASSIFIER",
    "LANGUAGE",
    "Bench",
    "Candidate",
    "Confirmation",
    "Detection",
    "Kind",
    "Language",
    "Network",
    "Problem",
    "Rival",
    "Sought",
    "Thirds",
    "Trigger",
    "make_negatives",
    "make_positives",
]
