"""What the labels stand for, and what makes an answer good: classes, bands of a value, or actions of some worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from candling.access.bands import Bands
from candling.access.metric import Metric


@dataclass(frozen=True)
class Task:
    """Classes, unless there are bands."""

    bands: Bands | None = None
    metric: Metric | None = None
    """The user's own measure of how good answers are."""
    worth: bool = False
    """Whether each label is the best of some actions, whose worths are known."""

    @property
    def measure_name(self) -> str | None:
        """Of what stands for accuracy, if that does not."""
        if self.metric is not None:
            return self.metric.name.rpartition("/")[2]
        if self.worth:
            return "worth of the action chosen"
        return "R²" if self.bands else None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats; of values, the mean squared error over the variance of the trusted ones."""
        if self.bands is None:
            return cross_entropy(logits, targets)
        return (self.bands.output(logits) - self.bands.standard(targets)).square().mean()

    def taught(self, labels: Tensor) -> Tensor:
        """Targets for rows that are taught to be of these labels [n]: of a band, its centre."""
        return labels if self.bands is None else self.bands.middle(labels)

    def measure(self, logits: Tensor, y: Tensor, values: Tensor | None) -> float:
        """Share of right answers; or the metric; or by default of values R², of actions the mean worth.

        logits: [n, K]; y: int64 [n]; values: [n, ...], where y was given as such.
        """
        given = y if values is None else values
        if self.metric is not None:
            outputs = logits if self.bands is None else self.bands.values(self.bands.output(logits))
            return self.metric(outputs, given)
        chosen = logits.argmax(-1)
        if self.worth:
            return float(given.gather(1, chosen[:, None]).mean())
        if self.bands is None:
            return float((chosen == y).float().mean())
        there = self.bands.standard(given).double()
        wrong = (self.bands.output(logits).double() - there).square().mean()
        return float(1 - wrong / there.var(correction=0).clamp_min(1e-12))


CLASSES = Task()


def best_actions(worths: Tensor) -> Tensor:
    """int64 [n]: the first of the best actions of each row of worths [n, A]."""
    return torch.argmax(worths, 1)
