"""Agreement: does a network answer as a program does, where nothing was chosen by it, and where rivals would differ?

Question: is this the program, rather than one that mostly says the same?
Source: held-out agreement beside nulls; diagnostic inputs, on which the program and a rival differ, so that agreement
    that all share counts for nothing.
Inputs: the network's logits [n, K] and the answers of the program and its rivals on inputs that proposed neither.
Cost: none beside the logits.
Known failures: rivals that nobody proposed; a rival that differs from the program only where no input is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from candling.evidence.measurement import Rate
from candling.evidence.program import Answers
from candling.maths.intervals import clopper_pearson

FEWEST = 8
"""Diagnostic inputs below which a rival is not told apart."""
SIDES = 0.75
"""Of diagnostic inputs, the share above which the network sides with the program, if perhaps by chance."""


@dataclass(frozen=True)
class Rivalry:
    """A rival, and with whom the network sides where it and the program differ."""

    name: str
    agreement: Rate
    """Of the network with the rival."""
    sides: Rate
    """Of those inputs on which program and rival differ, how many the network answers as the program does."""
    fitted: bool = False
    """Is it a fitted model, which explains nothing and may come as near to a network as the rule that it computes?"""

    @property
    def refuted(self) -> bool | None:
        """None where such inputs are too few to tell, or side with the program without making it sure."""
        if self.sides.n < FEWEST:
            return None
        if self.sides.low > 0.5:
            return True
        return None if self.sides.value > SIDES else False


@dataclass(frozen=True)
class Agreement:
    agreement: Rate
    """Of network and program."""
    confident: Rate
    """Among the half of inputs with the larger margin: a network that computes the program errs near its edge."""
    rivals: tuple[Rivalry, ...]


def agree(
    logits: Tensor, program: Answers, rivals: Mapping[str, Answers], fitted: Mapping[str, Answers] | None = None
) -> Agreement:
    """logits [n, K] of the network; program, rivals and fitted models int64 [n]."""
    answers = logits.argmax(1).numpy()
    top = logits.topk(2, 1).values
    margin = (top[:, 0] - top[:, 1]).numpy()
    sure = margin >= np.median(margin)
    same = answers == program
    compared = []
    for name, other in {**rivals, **(fitted or {})}.items():
        differ = other != program
        compared.append(Rivalry(name, rate(answers == other), rate(same[differ]), name not in rivals))
    return Agreement(rate(same), rate(same[sure]), tuple(compared))


def rate(hits: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Rate:
    """The share that is true, with its exact interval."""
    count, n = int(hits.sum()), len(hits)
    low, high = clopper_pearson(count, n)
    return Rate(value=count / n if n else 0.0, low=low, high=high, n=n)


def levelled(logits: Tensor, like: Answers) -> Answers:
    """Answers of an untrained network, its logits shifted so that it answers about as variedly as another does.

    As it comes, an untrained network mostly gives one answer to everything, which any program explains.
    """
    centred = (logits - logits.mean(0)) / (logits.std(0) + 1e-9)
    if logits.shape[1] != 2:
        return np.asarray(centred.argmax(1).numpy(), dtype=np.int64)
    lead = (logits[:, 1] - logits[:, 0]).double().numpy()
    return np.asarray(lead > np.quantile(lead, 1 - (like == 1).mean()), dtype=np.int64)
