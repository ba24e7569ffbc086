"""Evidence of tampering: states that look like those in which sensors contradict each other.

Question: of inputs on which all sensors say yes, which are made up?
Source: measurement tampering detection (Roger et al., 2308.15605), the evidence probe: where tampering reached some
    sensors and not others they contradict each other, and the network that foretells them holds the act inside. A
    linear probe tells contradicting inputs (no label needed) from trusted ones on which all sensors say yes.
Inputs: network [n, ...] → logits [n, sensors]; trusted inputs that are really yes; untrusted inputs with what their
    sensors said, bool [n, sensors], and no label; a site by module path. Scores in units of a ridge regression.
Cost: one forward pass of each input.
Known failures: tampering that always reaches all sensors or none (nothing contradicts); sensors that contradict each
    other by chance more often than by tampering; an act that looks otherwise where it succeeds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from candling.errors import InputError
from candling.maths.probes import fit_probe
from candling.techniques.flag.contract import Flags
from candling.techniques.flag.inputs import states_of

_FEWEST = 20  # inputs of either side that a probe is fitted on


def flag_tampering(
    network: nn.Module, trusted: Tensor, untrusted: Tensor, sensors: Tensor, site: str
) -> tuple[Flags, Tensor]:
    """(scores of the untrusted inputs on which all sensors say yes, their rows int64 [m]).

    trusted: inputs [n, ...] known to be really yes. Raises InputError where sensors contradict each other too seldom.
    """
    yes = sensors.all(1)
    contradicting = torch.nonzero(~yes & sensors.any(1)).flatten()
    if min(len(contradicting), len(trusted)) < _FEWEST:
        raise InputError(
            "tampering",
            f"sensors contradict each other on {len(contradicting)} untrusted inputs, and {len(trusted)} trusted "
            f"ones are really yes: give at least {_FEWEST} of each",
        )
    rows = torch.nonzero(yes).flatten()
    known, odd, asked = (
        states_of(network, x, site) for x in (trusted, untrusted[contradicting.to(untrusted.device)], untrusted[rows])
    )
    labels = torch.cat([torch.zeros(len(known), dtype=torch.int64), torch.ones(len(odd), dtype=torch.int64)])
    probe = fit_probe(torch.cat([known, odd]), labels.to(known.device), 2)
    return Flags(probe(asked)[:, 1].float().cpu()), rows
