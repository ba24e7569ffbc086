"""A linear probe that is taught only where the network answers rightly, to be read where it does not.

Question: which class does a state hold, whatever the network says?
Source: eliciting latent knowledge from quirky networks (Mallen et al., 2312.01037): probes fitted in trusted contexts
    and read in an untrusted one. Ridge regression of the class on states, at each of several sites.
Inputs: network [n, ...] → [n, K]; labelled inputs; the same inputs in further contexts [c, n, ...], of which those
    count in which the network is right as often as `_TRUSTED` of what it is on plain ones; sites by module path.
Cost: one forward pass of the inputs in each context.
Known failures: a state that says the class otherwise in the untrusted context; what the probe reads need not be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from candling.access import observe
from candling.maths.probes import fit_probe

_TRUSTED = 0.85
_ROWS = 600  # that a probe is fitted on, at most


@dataclass(frozen=True, eq=False)
class Reader:
    """Probes at several sites of one network."""

    network: nn.Module
    probes: dict[str, Callable[[Tensor], Tensor]]
    """By site; `input` reads the input itself."""
    contexts: int
    """In which it was taught, beside plain inputs."""

    def read(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the network says, int64 [n], and what each site's probe reads, int64 [n], in one pass."""
        sites = [site for site in self.probes if site != "input"]
        seen = observe(self.network, x, sites)
        states = {**seen.activations, "input": x}
        return seen.logits.argmax(-1), {
            site: probe(states[site].flatten(1)).argmax(-1) for site, probe in self.probes.items()
        }


def read_in_trusted_contexts(
    network: nn.Module, x: Tensor, y: Tensor, classes: int, contexts: Sequence[Tensor], sites: Sequence[str]
) -> Reader:
    """Fitted on x and on those of the contexts in which the network's own answers may be trusted."""
    names = [site for site in sites if site != "input"]
    plain = observe(network, x, names)
    level = _TRUSTED * float((plain.logits.argmax(-1) == y).float().mean())
    kept = [({**plain.activations, "input": x})]
    for changed in contexts:
        seen = observe(network, changed, names)
        if float((seen.logits.argmax(-1) == y).float().mean()) >= level:
            kept.append({**seen.activations, "input": changed})
    rows = _evenly(len(kept) * len(x), _ROWS)
    labels = y.repeat(len(kept))[rows.to(y.device)]
    probes = {}
    for site in sites:
        states = torch.cat([each[site].flatten(1) for each in kept])
        probes[site] = fit_probe(states[rows.to(states.device)], labels, classes)
    return Reader(network, probes, len(kept) - 1)


def _evenly(n: int, most: int) -> Tensor:
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most).round().long()
