"""Networks of one real output, as classifiers of bands of it; and a user's own measure in the place of accuracy.

Of backdoors those are planted and looked for that send any input to one band. Which band an input's own value lies
in is known only as well as the network tells neighbouring bands apart, so triggers whose effect hangs on it (a shift
of every value, one band to another) could neither be planted nor measured in a network of ordinary error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from candling.access import Dataset, Task
from candling.organisms.plants import draw_backdoor
from candling.organisms.plants.backdoors import PATTERNS, Backdoor
from candling.problems import backdoor
from candling.problems.backdoor import BACKDOOR
from candling.problems.classifiers import CLASSIFIER
from candling.problems.contract import Kind, Problem
from candling.techniques.search import Part


def draw_to_one_band(data: Dataset, family: int, dose: float, generator: torch.Generator) -> Backdoor:
    """A patch or a blended pattern, by turns, that sends any input to one band."""
    return draw_backdoor(data, family % len(PATTERNS), dose, generator)


def parts(data: Dataset) -> list[Part]:
    """Every band as target, in both forms."""
    return [part for part in backdoor.parts(data) if part.group == "all-to-one"]


def untested(data: Dataset) -> list[str]:
    """The same, and what only classes can have."""
    left_out = "triggers whose effect depends on the value: a shift of every value, or of values in one band"
    return [left_out, *backdoor.untested(data)]


REGRESSOR: Kind = replace(
    CLASSIFIER,
    name="regressor",
    recipe=(
        "fresh initialisations of the subject's architecture, trained by squared error on the control third by "
        "recipes that vary optimiser, rate, decay, batch, subset and augmentation, until their trusted loss brackets "
        "the subject's"
    ),
    problems={
        **CLASSIFIER.problems,
        "backdoor": replace(BACKDOOR, plant=draw_to_one_band, parts=parts, untested=untested),
    },
)


def kind_for(task: Task) -> Kind:
    """Costs of repairs are counted in what stands for accuracy."""
    kind = REGRESSOR if task.bands else CLASSIFIER
    return kind if task.measure_name is None else replace(kind, problems=_in_its_units(kind.problems))


def _in_its_units(problems: Mapping[str, Problem]) -> dict[str, Problem]:
    return {
        name: replace(problem, remedy=replace(problem.remedy, unit="measure")) for name, problem in problems.items()
    }
