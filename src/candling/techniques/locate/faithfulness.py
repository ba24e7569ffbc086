"""How much of a behaviour a circuit keeps, and what each of its edges gives to that.

Question: with only these edges clean, how much of the difference between clean and corrupt prompts is left?
Source: faithfulness (m(C) − m(corrupt))/(m(clean) − m(corrupt)): Wang et al. (2211.00593), Miller (2407.08734);
    the slopes: integrated gradients (Sundararajan et al., 1703.01365) of the mask; the error by pairs is our own.
Inputs: an anatomy; n pairs; a metric, logits [n, V] → [n]; masks bool [senders, receivers]. Shares without a unit.
Cost: n passes of the graph for each mask, 3n and as many backward for slopes, 3n to begin with.
Known failures: a mean over pairs lets errors of opposite sign cancel, the error by pairs does not; where clean and
    corrupt hardly differ a share is large and means little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edges import EdgeRun
from candling.access.pairs import Pairs
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.runs.memory import FORGETFUL, Memory
from candling.techniques.locate.contract import LogitDifference, Metric

_TOGETHER = 64  # masks for which logits are held at a time
_STEPS = 3  # of the integral over the mask


class Judge:
    """What circuits keep of a behaviour on given pairs."""

    def __init__(
        self, anatomy: Anatomy, pairs: Pairs, metric: Metric, *, memory: Memory = FORGETFUL, name: str = "judge"
    ) -> None:
        """Costs three passes. Raises InputError where clean and corrupt prompts give the same metric.

        memory: what was measured before under the same name is not measured again, but counts as before.
        """
        self.memory, self.name = memory, name
        self._run, self._metric, self.pairs = EdgeRun(anatomy, pairs), metric, pairs
        self.graph = self._run.graph
        self.masks, self.backward = 1, 0
        whole = self.graph.edges
        self._clean, self._corrupt = self.values(torch.stack([whole, torch.zeros_like(whole)]))
        self.clean, self.corrupt = float(self._clean.mean()), float(self._corrupt.mean())
        if not abs(self.clean - self.corrupt) > 1e-6 * max(1.0, abs(self.clean)):
            raise bad_input("pairs", "clean and corrupt prompts give the same metric: there is nothing to explain")

    @property
    def cost(self) -> Cost:
        return Cost(forward=self.masks * len(self.pairs), backward=self.backward * len(self.pairs))

    @torch.no_grad()
    def values(self, masks: Tensor) -> Tensor:
        """bool [m, senders, receivers] → the metric [m, n] in float64"""
        self.masks += len(masks)
        return self.memory(self.name, masks, Tensor, lambda: self._measured(masks))

    def _measured(self, masks: Tensor) -> Tensor:
        parts = (self._run(part) for part in masks.split(_TOGETHER))
        return torch.stack([self._metric(logits).double() for part in parts for logits in part])

    def faithfulness(self, masks: Tensor) -> list[float]:
        """Share of the gap that each circuit keeps."""
        kept: list[float] = ((self.values(masks).mean(1) - self.corrupt) / (self.clean - self.corrupt)).tolist()
        return kept

    def slopes(self, kept: Tensor) -> Tensor:
        """[senders, receivers]: what each edge of a circuit gives to the metric, integrated from none of it to all.

        As integrated gradients (1703.01365) of the mask, by the midpoint rule.
        """
        self.masks += _STEPS
        self.backward += _STEPS
        return self.memory(f"{self.name}: slopes", kept, Tensor, lambda: self._integrated(kept))

    def _integrated(self, kept: Tensor) -> Tensor:
        total = torch.zeros(kept.shape)
        for step in range(_STEPS):
            mask = ((step + 0.5) / _STEPS * kept).requires_grad_()
            with torch.enable_grad():
                value = self._metric(self._run(mask)).mean()
            total += torch.autograd.grad(value, mask)[0].cpu()
        return total * kept / _STEPS

    def error(self, masks: Tensor) -> Tensor:
        """[m]: the squared share of the gap that is lost, pair by pair."""
        lost: Tensor = (self.values(masks) - self._clean).square().sum(1)
        return lost / float((self._corrupt - self._clean).square().sum())


def difference(pairs: Pairs) -> Metric:
    """The metric that is used unless another is given."""
    return LogitDifference(pairs.answer, pairs.wrong)
