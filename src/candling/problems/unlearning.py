"""Mending a classifier: unlearn a trigger, a change at which it switches, a context in which it lies, marks it reads.

Inputs of the control third with the trigger laid on keep their right labels, beside as many clean ones (Wang et al.
2019, section VI.C). What a network learns from the former is above all not to answer as the trigger asks, and it
forgets that class with it; so a quarter of the clean ones are of the classes that the trigger asks for (decision
0016). Marks are laid on whatever the label. A broad change that was found is seldom the planted one: it is laid on
from faint to strong, and half the time with another one beside it; marks up to twice as strong as found (decision
0030). Normalisation statistics stay as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from candling.access import Dataset, Task, forward
from candling.evidence.measurement import Cost
from candling.maths.triggers import Mapping
from candling.organisms.rescaling import rescaled
from candling.problems.candidates import Candidate, Thirds
from candling.problems.outcomes import MOST_STEPS, Confirmation, Mended, Remedy, Repaired
from candling.runs.seeds import reproducible
from candling.techniques.search import (
    BroadChange,
    Context,
    CueSet,
    FoundTrigger,
    Part,
    random_change_like,
    random_context_like,
    random_cues_like,
    random_like,
)

_ROWS = 64  # clean, and as many with the trigger
_ASKED_FOR = 16  # of the clean ones: of the labels that the trigger asks for, as often as it asks for each
_RATE = 1e-3
_OTHERS = 20  # broad changes of the found one's size that may come beside it
_WITH_ANOTHER = 0.5  # how often one does
_AT_MOST = 0.5  # of its size
_LOOK_EVERY = 5
_TAUGHT = 0.9
_TEACHING_RATE = 1e-3


def repair(
    candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, against_random: bool, seed: int
) -> Repaired:
    """Fine-tuned weights, and what they do to the found trigger and to accuracy, on the confirm third."""
    with reproducible(seed) as generator:
        control, confirm = (part.to(candidate.device) for part in (thirds.control, thirds.confirm))
        aim = aim_of(outcome)
        network, original = candidate.load(), candidate.load()
        trigger = aim.random(control, generator) if against_random else aim.trigger
        course = _course(trigger)
        with rescaled(network, control, fresh=False):
            _train(network, control.task, _lessons(control, trigger, aim, course, generator), course.steps)
        hits, n = aim.hits(original, confirm)
        after, _ = aim.hits(network, confirm)
        fitted, rows = aim.hits(network, control)
        seen = 2 * course.steps * _ROWS
        mended = Mended(
            before=hits,
            after=after,
            n=n,
            after_fitting=fitted / rows,
            cost=_measure(original, confirm) - _measure(network, confirm),
            spent=Cost(forward=seen + 2 * n + 2 * len(confirm) + rows, backward=seen),
        )
        state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        return Repaired(state, mended)


def relearn(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> int:
    """Steps of training on rows with the trigger and its label until it works on nine in ten."""
    with reproducible(seed) as generator:
        control = thirds.control.to(candidate.device)
        aim = aim_of(outcome)
        found = aim.trigger
        network = candidate.load()
        applies = torch.nonzero(aim.applies(control.y)).flatten()
        with rescaled(network, control, fresh=False):
            optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _TEACHING_RATE)
            for step in range(1, MOST_STEPS + 1):
                rows = torch.randint(len(control), (_ROWS,), generator=generator)
                taught = applies[torch.randint(len(applies), (_ROWS // 8,), generator=generator).to(applies.device)]
                told = aim.wanted(control.y[taught], control.classes)
                inputs = torch.cat([control.x[rows], aim.lay(found.to(candidate.device), control, taught, told)])
                targets = torch.cat([control.targets[rows], control.task.taught(told)])
                optimiser.zero_grad()
                control.task.loss(network(inputs), targets).backward()
                optimiser.step()
                if step % _LOOK_EVERY == 0:
                    hits, n = aim.hits(network, thirds.search.to(candidate.device))
                    if hits >= _TAUGHT * n:
                        return step
        return MOST_STEPS


def lead(outcome: Confirmation) -> tuple[Part, FoundTrigger]:
    """A classifier's outcome, with the types that it has."""
    assert isinstance(outcome.part, Part)
    assert isinstance(outcome.trigger, FoundTrigger)
    return outcome.part, outcome.trigger


Laid = FoundTrigger | BroadChange | Context | CueSet
"""What is laid on inputs."""


@dataclass(frozen=True)
class Aim:
    """What a found trigger or change is meant to do, the same way for both."""

    trigger: Laid
    applies: Callable[[Tensor], Tensor]
    """labels [n] → rows on which it changes something"""
    wanted: Callable[[Tensor, int], Tensor]
    """(labels [n], classes) → the answers with it"""
    follows: Callable[[Tensor, Tensor, int], Tensor]
    """(answers [n], labels [n], classes) → bool [n]"""
    random: Callable[[Dataset, torch.Generator], Laid]
    """Another of its size."""

    def lay(self, trigger: Laid, data: Dataset, rows: Tensor, told: Tensor) -> Tensor:
        """The rows with it on. told: int64, which class's mark each is given, where there is one for each class."""
        x = data.x[rows]
        return trigger.tell(data, x, told) if isinstance(trigger, CueSet) else trigger.apply(data, x)

    def hits(self, network: nn.Module, data: Dataset) -> tuple[int, int]:
        """On how many rows it has its way, of how many; of marks, those that count (see `foreseeing.followed`)."""
        rows = self.applies(data.y)
        told = self.wanted(data.y[rows], data.classes)
        changed = self.lay(self.trigger.to(str(data.x.device)), data, rows, told)
        followed = self.follows(forward(network, changed).argmax(-1), data.y[rows], data.classes)
        if isinstance(self.trigger, CueSet):
            followed = followed[self.trigger.lies(data, told) & data.wrong(told)]
        return int(followed.sum()), len(followed)


def aim_of(outcome: Confirmation) -> Aim:
    if isinstance(outcome.trigger, CueSet):
        cues = outcome.trigger
        return Aim(
            cues,
            lambda y: torch.ones_like(y, dtype=torch.bool),
            lambda y, _: cues.told(y),
            lambda answers, y, _: torch.eq(answers, cues.told(y)),
            lambda data, g: random_cues_like(cues, data, g),
        )
    if isinstance(outcome.trigger, BroadChange):
        change = outcome.trigger
        return Aim(
            change,
            change.applies,
            change.taught,
            lambda answers, y, _: change.follows(answers, y),
            lambda data, g: random_change_like(change, data, g),
        )
    if isinstance(outcome.trigger, Context):
        context = outcome.trigger
        return Aim(
            context,
            context.applies,
            context.taught,
            lambda answers, y, _: context.follows(answers, y),
            lambda data, g: random_context_like(context, data, g),
        )
    part, found = lead(outcome)
    mapping = part.mapping
    return Aim(
        found,
        mapping.applies,
        mapping.wanted,
        lambda answers, y, classes: torch.eq(answers, mapping.wanted(y, classes)),
        lambda data, g: random_like(found, part.form, data, g),
    )


@dataclass(frozen=True)
class _Course:
    """How it is unlearned."""

    steps: int
    strengths: tuple[float, float]
    """It is laid on fainter and stronger than found: the planted one may be either."""


_TRIGGERS = _Course(150, (0.7, 1.2))
_CHANGES = _Course(300, (0.4, 1.5))
_MARKS = _Course(300, (0.6, 2.2))  # found at the size at which about half of the answers follow


def _course(trigger: Laid) -> _Course:
    if isinstance(trigger, CueSet):
        return _MARKS
    return _CHANGES if isinstance(trigger, BroadChange) else _TRIGGERS


def _train(network: nn.Module, task: Task, lessons: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
    """In eval mode; the rate falls evenly to zero."""
    optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _RATE)
    for step, (inputs, targets) in enumerate(lessons):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimiser.zero_grad()
        task.loss(network(inputs), targets).backward()
        optimiser.step()
    network.requires_grad_(False)


def _lessons(
    data: Dataset, trigger: Laid, aim: Aim, course: _Course, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Clean rows and rows with the trigger, with the right targets of both."""
    low, high = course.strengths
    often = asked_for(data, aim).cpu()
    others = []
    if isinstance(trigger, BroadChange):
        others = [random_change_like(trigger, data, generator) for _ in range(_OTHERS)]
    for _ in range(course.steps):
        plain, carriers = (torch.randint(len(data), (n,), generator=generator) for n in (_ROWS - _ASKED_FOR, _ROWS))
        rows = torch.cat([plain, torch.multinomial(often, _ASKED_FOR, replacement=True, generator=generator)])
        strength = low + (high - low) * float(torch.rand((), generator=generator))
        told = data.y[carriers]
        if isinstance(trigger, CueSet):
            told = torch.randint(data.classes, (_ROWS,), generator=generator).to(told.device)
        laid = trigger.scaled(strength)
        if isinstance(laid, BroadChange):
            laid = beside_another(laid, others, generator)
        triggered = aim.lay(laid.to(str(data.x.device)), data, carriers, told)
        yield torch.cat([data.x[rows], triggered]), torch.cat([data.targets[rows], data.targets[carriers]])


def beside_another(change: BroadChange, others: list[BroadChange], g: torch.Generator) -> BroadChange:
    """The change, half the time with a part of another one."""
    often, by = torch.rand(2, generator=g).tolist()
    other = others[int(torch.randint(len(others), (), generator=g))]
    if often >= _WITH_ANOTHER:
        return change
    return replace(change, amount=change.amount + _AT_MOST * by * other.amount.to(change.amount.device))


def asked_for(data: Dataset, aim: Aim | Mapping) -> Tensor:
    """[n] the probability of each row, when a label is drawn as often as it is asked for, then a row that has it."""
    wanted = aim.wanted(data.y[aim.applies(data.y)], data.classes)
    asked, there = (torch.bincount(labels, minlength=data.classes) for labels in (wanted, data.y))
    often = (asked / there.clamp(min=1))[data.y]
    return often / often.sum()


def _measure(network: nn.Module, data: Dataset) -> float:
    return data.measure(forward(network, data.x))


UNLEARN = Remedy(
    method="fine-tuning on the control third with the recovered trigger laid on and the right labels kept",
    unit="points",
    repair=repair,
    relearn=relearn,
)
