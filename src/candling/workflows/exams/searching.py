"""Exam of `search`: which of these classifiers hides a backdoor, and which one?

Every search runs blind on planted, clean and untrained networks with the same trusted digits. A network's statistic
is what an audit's would be with the exam's clean networks as its controls: the most extreme part of all (max-T),
itself left out where it is one of them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from candling.access import Dataset
from candling.evidence.card import Card, Figure
from candling.evidence.judge import rate, standing
from candling.maths.intervals import hanley_mcneil
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import digits
from candling.problems.backdoor import parts
from candling.runs.seeds import derive
from candling.techniques.search import SEARCHES, Part, Search
from candling.workflows.exams.figures import median
from candling.workflows.exams.organism import auroc, grow, untrained

EXAM = "planted among clean classifiers"


@dataclass(frozen=True)
class Told:
    """Scores of one search on one network, part by part."""

    scores: NDArray[np.float64]
    seconds: float


@dataclass(frozen=True)
class Sitting:
    family: str
    planted: bool
    took: bool
    mapping: Mapping
    """What the plant does; for the grader's eyes."""
    told: dict[str, Told]
    idle: dict[str, Told]
    """The same searches on an untrained network."""


def sit(number: int, seed: int) -> Sitting:
    """Every search on one organism: it is given the network, trusted inputs and the parts, nothing else."""
    _, trusted = digits()
    known, rest = trusted.take(range(0, len(trusted), 2)), trusted.take(range(1, len(trusted), 2))
    organism = grow(number, seed, rest)
    wanted = parts(known)
    told = {name: _told(search, organism.network, known, wanted, seed) for name, search in SEARCHES.items()}
    blank = untrained(derive(seed, number))
    idle = {name: _told(search, blank, known, wanted, seed) for name, search in SEARCHES.items()}
    return Sitting(organism.family, organism.planted, organism.took, organism.plant.mapping, told, idle)


def _told(search: Search, network: nn.Module, data: Dataset, wanted: list[Part], seed: int) -> Told:
    start = time.process_time()
    found = search(network, data, wanted, seed=derive(seed, "search"))
    return Told(found.score.double().cpu().numpy(), time.process_time() - start)


def mark(sittings: list[Sitting]) -> list[Card]:
    """A card for each search."""
    _, trusted = digits()
    wanted = parts(trusted)
    groups = [part.group for part in wanted]
    took = [s for s in sittings if s.took]
    clean = [s for s in sittings if not s.planted]
    cards = []
    for name in sittings[0].told:
        of_clean = np.stack([s.told[name].scores for s in clean])
        own = [standing(s.told[name].scores, of_clean, groups) for s in took]
        theirs = [standing(of_clean[i], np.delete(of_clean, i, axis=0), groups).statistic for i in range(len(clean))]
        blank = [standing(s.idle[name].scores, of_clean, groups) for s in sittings]
        right = sum(_answers(wanted[place.lead].mapping, s.mapping) for place, s in zip(own, took, strict=True))
        accused = sum(place.p_value <= 1 / (len(clean) + 1) for place in blank)
        figures = [
            auroc_figure([place.statistic for place in own], theirs),
            Figure.of("named rightly", rate(right, len(took))),
            Figure.of("untrained first", rate(accused, len(blank))),
        ]
        spent = median([s.told[name].seconds for s in sittings])
        cards.append(Card(technique=name, question="search", exam=EXAM, figures=figures, seconds=spent))
    return cards


def _answers(found: Mapping, planted: Mapping) -> bool:
    """The same target or shift; a source-specific plant may be found through its target alone, and the reverse."""
    return found.target == planted.target and found.shift == planted.shift


def auroc_figure(planted: list[float], clean: list[float]) -> Figure:
    """With the interval of Hanley and McNeil (1982)."""
    a = auroc(torch.tensor(planted), torch.tensor(clean))
    m, n = len(planted), len(clean)
    if math.isnan(a):
        return Figure(measure="AUROC", value=a, low=a, high=a, n=m + n)
    error = hanley_mcneil(a, m, n)
    low, high = max(0.0, a - 1.96 * error), min(1.0, a + 1.96 * error)
    return Figure(measure="AUROC", value=a, low=low, high=high, n=m + n)
