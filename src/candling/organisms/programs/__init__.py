"""Problems for `candling solve`, with their answers: a network is taught a hidden program on real inputs.

    problem = pose("l1", seed=7)          # one of KINDS; the same for one seed, fresh for another
    network = train(problem)              # seconds on one thread; nn.Module in eval mode
    admission(problem, network).admitted  # training and test accuracy ≥ .97, no label above .65

A solver is given `network` and `problem.unlabelled`: inputs that the network was not trained on. Whoever grades it
also has `problem.truth`, a pure function `Inputs` → int64 [n], `problem.says` (the same in words), and
`problem.training` and `problem.test`.

    images     Inputs.x float32 [n, 1, 8, 8] in sixteenths of 0..1; Inputs.digit int64 [n] (a column of concepts)
    pairs      Inputs.x int64 [n, 2], both of 0..p-1; the three parts together are the whole grid
    sequences  Inputs.x int64 [n, L] of 0..V-1

Networks map `Inputs.x` as it is to logits [n, classes]. `export` writes a problem as the files that the command
takes; `decoys` has networks that learned no program. `held_out` is not for whoever writes proposers: see its first
lines.
"""

from candling.organisms.programs import images, pairs, sequences
from candling.organisms.programs.problem import Inputs, Kind, Problem, Program, Recipe, Rule, majority
from candling.organisms.programs.training import LEAST, Admission, admission, answers, train

_FAMILIES = {"images": images, "pairs": pairs, "sequences": sequences}
KINDS: dict[str, str] = {name: family for family, module in _FAMILIES.items() for name in module.KINDS}
"""Every kind's family."""


def pose(kind: str, seed: int) -> Problem:
    """The problem of a kind and a seed. Raises KeyError where there is no such kind."""
    module = _FAMILIES[KINDS[kind]]
    problem: Problem = module.problem(kind, module.KINDS[kind], seed)
    return problem


__all__ = [
    "KINDS",
    "LEAST",
    "Admission",
    "Inputs",
    "Kind",
    "Problem",
    "Program",
    "Recipe",
    "Rule",
    "admission",
    "answers",
    "majority",
    "pose",
    "train",
]
