"""ACDC: edges are cut for good, from the logits upwards, wherever the metric hardly notices.

Question: which edges cannot be cut one after another without changing the metric?
Source: Conmy et al. (2304.14997, algorithm 1): in reverse topological order an edge is removed where the metric
    changes by less than τ against the circuit so far. Order: receivers as `Graph.receivers` lists them, the last
    first (logits; of each layer from the top its MLP, values, keys, queries, the last head first), and of each
    receiver its senders, the last first.
Inputs: a decoder taken apart; n pairs of prompts [n, L]; a metric, logits at the prompts' ends [n, V] → [n]; τ in
    units of the metric. A circuit: bool [senders, receivers].
Cost: one forward pass of n prompts for each edge, of which only what the edge reaches in the circuit so far is
    computed; trials that were run ahead in vain are counted too.
Known failures: of edges that stand in for each other (OR) all but the last one tried are cut, and so missed; where
    the circuit is denoised this befalls edges that need each other (AND). Edges that matter only together may each
    change less than τ. The order decides between equals. KL is undefined on one-hot outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.edge_trials import EdgeTrials
from candling.access.pairs import Pairs
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost
from candling.techniques.locate.circuit_type import Circuit
from candling.techniques.locate.contract import Metric
from candling.techniques.locate.path_patching import Readout, readout

_VALUES = 1 << 17  # numbers of a residual stream that fill a pass: with more, wrong guesses cost more than is saved


def acdc(
    anatomy: Anatomy,
    pairs: Pairs,
    tau: float,
    *,
    metric: Metric,
    loss: bool = False,
    denoising: bool = False,
    source: Tensor | None = None,
    batch: int | None = None,
) -> Circuit:
    """The circuit that is left; the same, up to rounding, as if each edge were tried by a whole pass.

    loss: the metric says how much is lost (KL to the clean run, say), so that an edge goes unless the metric *rises*
    by τ, as in the paper; else unless it changes by τ either way. denoising and source are those of `EdgeRun`: in
    the circuit that is denoised, cut edges carry the clean prompts' values. batch: most edges tried in one pass, as
    many as fill it unless given; decisions do not depend on it but by rounding. Raises InputError where τ is not
    above 0.
    """
    if not tau > 0:
        raise bad_input("tau", f"{tau} keeps every edge; give a threshold above 0, in units of the metric")
    trials = EdgeTrials(anatomy, pairs, denoising=denoising, source=source)
    read = readout(anatomy, metric)
    first, second = read(torch.stack([trials.ends, trials.all_cut]))
    size = trials.source[0].numel()
    walk = _Walk(trials, read, tau, loss, batch or max(1, _VALUES // size), first)
    for receiver in reversed(range(len(trials.graph.receivers))):
        walk.visit(receiver)
        trials.settle()
    return Circuit(
        graph=trials.graph,
        kept=trials.flow,
        technique="ACDC",
        clean=second if denoising else first,
        corrupt=first if denoising else second,
        value=walk.value,
        cost=Cost(forward=len(pairs) * (2 + walk.tried), backward=0),
    )


@dataclass
class _Walk:
    """Where the search stands. Edges are tried ahead on a guess: that the next decisions are as the last one.

    A trial counts only if every decision before it came out as guessed, so guesses cost time and change nothing.
    """

    trials: EdgeTrials
    read: Readout
    tau: float
    loss: bool
    batch: int
    value: float
    """The metric of the circuit so far."""
    cuts: bool = True
    """The guess."""
    ahead: int = 1
    """How many edges are tried on it."""
    tried: int = 0

    def visit(self, receiver: int) -> None:
        """Decides on every edge into one receiver."""
        flow = self.trials.flow
        senders = torch.nonzero(flow[:, receiver]).flatten().tolist()[::-1]
        if not self.trials.alive[receiver]:  # the metric cannot change
            flow[senders, receiver] = False
            return
        while senders:
            own = senders[: self.ahead]
            sets = [own[: i + 1] if self.cuts else [sender] for i, sender in enumerate(own)]
            outcome = self.trials.cut(receiver, sets)
            self.tried += len(sets)
            decided, cut = self._decide(self.read(outcome.ends))
            if cut is not None:
                flow[sets[cut], receiver] = False
                self.trials.commit(outcome, cut)
            senders = senders[decided:]

    def _decide(self, values: list[float]) -> tuple[int, int | None]:
        """How many trials counted, and the one, if any, whose cuts stand."""
        stands = None
        for place, value in enumerate(values):
            change = value - self.value if self.loss else abs(value - self.value)
            cut = change < self.tau
            if cut:
                self.value, stands = value, place
            if cut != self.cuts:
                self.cuts, self.ahead = cut, 1
                return place + 1, stands
        self.ahead = min(2 * self.ahead, self.batch)
        return len(values), stands
