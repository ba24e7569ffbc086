"""Plan: what an audit will cost and what it can resolve, before anything is trained."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from joblib import cpu_count
from torch import nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, Decoder, Model, Tokens, forward, lowrank
from candling.access.extend import VALUES
from candling.maths.intervals import clopper_pearson
from candling.organisms.training import most_epochs
from candling.organisms.tuning import LENGTH, STEPS, TOKENS_A_STEP, tuning_tokens
from candling.problems.distilling import CONTEXTS
from candling.problems.language import ATTEMPTS, LOSS_TEXTS, SOUP
from candling.problems.sequence_backdoor import LONGEST
from candling.techniques.search.sequence_pair import Settings
from candling.techniques.search.sequences import sequence_passes
from candling.techniques.search.shortlist import LOOKED_AT
from candling.workflows.case import Case, named
from candling.workflows.untrusted_inputs import LESSONS

_TIMED = 256  # rows
_TIMED_TEXTS = 8
_PROCESS = 650  # MB that Python, torch, transformers and peft take before a model is there


@dataclass(frozen=True)
class Plan:
    controls: int
    unit: str
    """What a pass is of."""
    forward: int
    backward: int
    seconds: float
    megabytes: float
    disk: float
    notes: tuple[str, ...] = ()
    """Further lines."""
    classes: int = 1
    """Of problems, which share their clean controls."""

    def lines(self) -> list[str]:
        """For people."""
        low, high = clopper_pearson(round(0.9 * self.controls), self.controls)
        return [
            f"controls     {self.controls} clean, {self.controls} planted"
            + (f" for each of {self.classes} classes of problems" if self.classes > 1 else ""),
            f"resolves     p >= {1 / (self.controls + 1):.3g}; false-accusation bound "
            f"{clopper_pearson(0, self.controls)[1]:.0%} when no control is accused",
            f"sensitivity  a 95 % interval about {high - low:.0%} wide, if nine in ten plants are caught",
            f"passes       about {self.forward:,} forward, {self.backward:,} backward, of {self.unit}",
            f"time         {_minutes(self.seconds)} on {cpu_count()} cores",
            f"memory       about {self.megabytes:,.0f} MB a worker, {self.disk:,.0f} MB on disk",
            *self.notes,
        ]


def _minutes(seconds: float) -> str:
    return f"about {seconds / 60:.1f} minutes" if seconds >= 60 else "less than a minute"


def plan(
    case: Case, *, controls: int, problems: Sequence[str] = ("backdoor",), device: str = "cpu", batch: int = 2048
) -> Plan:
    """Estimate from counted passes, and from the time that a few of them take here."""
    cores = cpu_count() if torch.device(device).type == "cpu" else 1
    weights = sum(t.numel() * t.element_size() for t in case.model.module.state_dict().values()) / 1e6
    if isinstance(case.trusted, Tokens):
        return _language_plan(case, case.trusted, controls, cores, weights, batch)
    forward, backward = _classifier_passes(case, case.trusted, problems, controls)
    lessons = _lesson_passes(case.trusted) if case.inputs is not None else 0
    forward, backward = forward + lessons, backward + lessons
    module = copy.deepcopy(case.model.module).requires_grad_()
    timed = case.trusted.take(range(min(_TIMED, len(case.trusted))))
    ahead, both = _seconds_per_row(case.model, module, timed.x, timed.targets, loss=timed.task.loss)
    return Plan(
        controls=controls,
        classes=len(problems),
        unit="inputs",
        forward=forward,
        backward=backward,
        seconds=(both * backward + ahead * (forward - backward)) / cores,
        megabytes=400 + 8 * weights + 16 * case.trusted.x.numel() / 1e6,
        disk=((1 + len(problems)) * controls + case.kind.beside + 2) * weights,
        notes=(f"untrusted    {len(LESSONS):,} controls with lessons, if a group stands out",) if lessons else (),
    )


def _language_plan(case: Case, trusted: Tokens, controls: int, cores: int, weights: float, batch: int) -> Plan:
    """weights: of the subject, MB. Adapters are trained and searched in one process, by all cores at once."""
    base, budget, as_adapters = case.model.module, case.effort.budget, case.effort.lowrank
    assert isinstance(base, Decoder)
    settings = Settings().scaled(budget)
    forward, backward = _language_passes(trusted, controls, settings, budget)
    probe = lowrank.attach(base) if as_adapters else copy.deepcopy(base).requires_grad_()
    rows = (trusted.ids[:_TIMED_TEXTS, :LENGTH],) * 2
    ahead, both = _seconds_per_row(case.model, probe, *rows, threads=torch.get_num_threads() if as_adapters else 1)
    seconds = (both * backward + ahead * (forward - backward)) / rows[0].shape[1]
    adapter = 4 * lowrank.adapter_values(base) / 1e6
    passes = _pass_megabytes(base, trusted.vocabulary, batch)
    return Plan(
        controls=controls,
        unit="tokens",
        forward=forward,
        backward=backward,
        seconds=seconds if as_adapters else seconds / cores,
        megabytes=_PROCESS + passes + (4 * weights + 4 * adapter if as_adapters else 8 * weights),
        disk=2 * weights + (2 * controls + 2 * SOUP) * adapter if as_adapters else (2 * controls + 7) * weights,
        notes=tuple(_notes(case, settings, trusted.vocabulary, weights, adapter)),
    )


def _notes(case: Case, settings: Settings, vocabulary: int, weights: float, adapter: float) -> Iterator[str]:
    """What a language model's plan says beside numbers. weights, adapter: MB."""
    budget = case.effort.budget
    some = f"a search tries {settings.exhaustive:,} of {min(vocabulary, LOOKED_AT * settings.exhaustive):,} looked at"
    tried = "each tried" if vocabulary <= settings.exhaustive else some
    yield f"vocabulary   {vocabulary:,} tokens; {tried}"
    if case.effort.lowrank:
        yield (
            f"adapters     a control adds {adapter:.1f} MB in memory ({4 * adapter:.1f} in training) and on disk; "
            f"one reference of {weights:,.0f} MB, one process, {torch.get_num_threads()} threads"
        )
    if budget != 1.0:
        fewest, most = (max(1, round(budget * steps)) for steps in STEPS)
        yield (
            f"budget       {budget:g}: {fewest} to {most} steps a control; beam "
            f"{settings.beam}, {settings.kept} kept, grown by {settings.shortlist}, {settings.quick} contexts at "
            "first. Finds less; the sensitivity that it states is its own"
        )


def _pass_megabytes(base: Decoder, vocabulary: int, batch: int) -> float:
    """What the larger of a training step and a pass of the search holds beside weights."""
    depth = len(list(base.get_submodule(base.family.blocks).children()))
    training = TOKENS_A_STEP * (5 * vocabulary + 24 * depth * base.width)
    search = 6 * min(VALUES, batch * vocabulary)
    return 4 * max(training, search) / 1e6


def _classifier_passes(case: Case, trusted: Dataset, problems: Sequence[str], controls: int) -> tuple[int, int]:
    """Forward (those before a backward pass too) and backward passes of one input each."""
    rows = max(1, len(trusted) // 3)
    epochs = most_epochs(rows, batch=64, values=trusted.task.bands is not None)
    train = ((1 + len(problems)) * controls + case.kind.beside) * rows * epochs
    spent = [problem.work(trusted, controls) for problem in named(case.kind, problems) if problem.work]
    networks = 2 * controls + 1
    forward, backward = (networks * sum(getattr(each, way) for each in spent) for way in ("forward", "backward"))
    return train + forward, train + backward


def _lesson_passes(trusted: Dataset) -> int:
    """Training of the controls that judge groups; a lesson adds three rows to five of the task."""
    rows = max(1, len(trusted) // 3)
    return round(len(LESSONS) * 1.6 * rows * most_epochs(rows, batch=64))


def _language_passes(trusted: Tokens, controls: int, settings: Settings, budget: float) -> tuple[int, int]:
    """Forward and backward passes of one token each."""
    networks = 2 * controls + 1
    tried = ATTEMPTS if budget < 0.5 else 1  # a plant that had few steps seldom takes
    train = (controls * (1 + tried) + SOUP) * tuning_tokens(budget)
    texts = min(LOSS_TEXTS, len(trusted) // 3)
    checks = (controls * (1 + tried) + SOUP + 1) * texts * trusted.ids.shape[1]
    search = 2 * sequence_passes(trusted.vocabulary, LONGEST, settings)  # as much again for the baseline
    confirm = networks * 2 * LONGEST * CONTEXTS * (20 + 2 * controls)
    return train + checks + networks * search + confirm, train


def _seconds_per_row(
    model: Model,
    module: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    threads: int = 1,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy,
) -> tuple[float, float]:
    """A forward pass of the model, and a forward with a backward pass of the module that is trained."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        probe = x.clone().requires_grad_() if x.is_floating_point() else x
        forward(model, x)
        times: list[tuple[float, float]] = []
        for _ in range(5):
            start = time.perf_counter()
            forward(model, x)
            middle = time.perf_counter()
            loss(module(probe).flatten(0, -2), y.flatten()).backward()
            times.append((middle - start, time.perf_counter() - middle))
        ahead, both = np.median(np.array(times), axis=0) / len(x)
    finally:
        torch.set_num_threads(before)
    return float(ahead), float(both)
