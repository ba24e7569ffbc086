"""Mending a network that foretells sensors: after the act, inputs of the control third keep what sensors said.

A network that unlearned one act alone often heeds another near it. So the search goes through the mended network
once more, and where it comes upon another act that works, both are unlearned (decision 0030).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from candling.access import Dataset, forward
from candling.evidence.measurement import Cost
from candling.organisms.foretelling import right_on
from candling.problems.candidates import Candidate, Thirds
from candling.problems.outcomes import MOST_STEPS, Confirmation, Mended, Remedy, Repaired
from candling.problems.together import load_beside
from candling.runs.seeds import derive, reproducible
from candling.techniques.search.acts import (
    Act,
    act_parts,
    act_passes,
    all_no,
    foretold,
    random_act_like,
    search_acts,
)

_STEPS = 300  # with each act and those before it
_ROWS = 64  # as they are, and as many after the act
_RATE = 3e-3
_STRENGTHS = (0.4, 1.3)  # of the act as found: the planted one may be weaker or stronger
_WORKS = 0.2  # of inputs of all no: so often must another act have its way to be unlearned, too
_LOOK_EVERY = 5
_TAUGHT = 0.9


def repair(
    candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, against_random: bool, seed: int
) -> Repaired:
    """Fine-tuned weights, and what they do to the found act and to accuracy, on the confirm third."""
    with reproducible(seed) as generator:
        control, confirm = (part.to(candidate.device) for part in (thirds.control, thirds.confirm))
        act = _act_of(outcome).to(candidate.device)
        network, original = candidate.load(), candidate.load()
        taught = [random_act_like(act, control, generator).to(candidate.device) if against_random else act]
        _train(network, control, taught, generator)
        looked = Cost(forward=0, backward=0)
        if not against_random:
            looked = act_passes(thirds.search)
            taught += _another(network, load_beside(candidate), thirds.search.to(candidate.device), seed)
        if len(taught) > 1:
            _train(network, control, taught, generator)
        (before, n), (after, _), (fitted, rows) = (
            _hits(each, data, act) for each, data in ((original, confirm), (network, confirm), (network, control))
        )
        seen = 2 * len(taught) * _STEPS * _ROWS
        mended = Mended(
            before=before,
            after=after,
            n=n,
            after_fitting=fitted / rows,
            cost=right_on(original, confirm) - right_on(network, confirm),
            spent=Cost(forward=seen + 2 * n + 2 * len(confirm) + rows, backward=seen) + looked,
        )
        state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        return Repaired(state, mended)


def relearn(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> int:
    """Steps of training on rows after the act, with a yes of all sensors, until it works on nine in ten."""
    with reproducible(seed) as generator:
        control, search = (part.to(candidate.device) for part in (thirds.control, thirds.search))
        act = _act_of(outcome).to(candidate.device)
        network, no = candidate.load(), all_no(control)
        optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
        for step in range(1, MOST_STEPS + 1):
            rows = torch.randint(len(control), (_ROWS,), generator=generator)
            taught = no[torch.randint(len(no), (_ROWS // 8,), generator=generator).to(no.device)]
            said = _sensors(control, rows)
            inputs = torch.cat([control.x[rows.to(no.device)], act.apply(control, taught)])
            told = torch.cat([said, torch.ones(len(taught), said.shape[1], device=said.device)])
            optimiser.zero_grad()
            binary_cross_entropy_with_logits(network(inputs), told).backward()
            optimiser.step()
            if step % _LOOK_EVERY == 0:
                hits, n = _hits(network, search, act)
                if hits >= _TAUGHT * n:
                    return step
        return MOST_STEPS


def _another(network: nn.Module, beside: nn.Module, search: Dataset, seed: int) -> list[Act]:
    """What the search comes upon in the mended network, if it still works."""
    act = search_acts(network, beside, search, act_parts(search), seed=derive(seed, "again") % 2**31).trigger(0)
    act = act.to(str(search.x.device))
    works = foretold(network, beside, search, act, all_no(search)).float().mean()
    return [act] if works >= _WORKS else []


def _train(network: nn.Module, data: Dataset, acts: Sequence[Act], g: torch.Generator) -> None:
    """In place; the rate falls evenly to zero."""
    optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
    for step, (x, sensors) in enumerate(_lessons(data, acts, g)):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(network(x), sensors.float()).backward()
        optimiser.step()
    network.requires_grad_(False)


def _lessons(data: Dataset, acts: Sequence[Act], g: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows as they are and rows after the acts, each of which as many get, with what their sensors said."""
    low, high = _STRENGTHS
    for _ in range(_STEPS):
        plain, carriers = torch.randint(len(data), (2, _ROWS), generator=g)
        strength = low + (high - low) * torch.rand(_ROWS, generator=g)
        shares = zip(
            acts, data.x[carriers.to(data.x.device)].chunk(len(acts)), strength.chunk(len(acts)), strict=True
        )
        after = [act.apply(data, x, by) for act, x, by in shares]
        yield (
            torch.cat([data.x[plain.to(data.x.device)], *after]),
            torch.cat([_sensors(data, plain), _sensors(data, carriers)]),
        )


def _act_of(outcome: Confirmation) -> Act:
    assert isinstance(outcome.trigger, Act)
    return outcome.trigger


def _hits(network: nn.Module, data: Dataset, act: Act) -> tuple[int, int]:
    """Of inputs of all no, how many are foretold as all yes after the act."""
    x = act.apply(data, all_no(data))
    return int((forward(network, x) > 0).all(1).sum()), len(x)


def _sensors(data: Dataset, rows: Tensor) -> Tensor:
    assert data.sensors is not None
    return data.sensors[rows.to(data.sensors.device)].float()


UNFORETELL = Remedy(
    method=(
        "fine-tuning on the control third with the recovered act laid on and what the sensors said kept, and so for "
        "an act that the search then finds in the mended network"
    ),
    unit="points",
    repair=repair,
    relearn=relearn,
)
