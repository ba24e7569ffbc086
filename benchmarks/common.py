"""What the exams share: banks of controls, and subjects trained by recipes that no control uses."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from math import log
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, load
from candling.evidence.control import NetworkRow
from candling.evidence.judge import rate
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Verdict
from candling.maths.intervals import hanley_mcneil
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants import Backdoor, Quirk, Shortcut, Switch
from candling.organisms.training import attack_success, augment
from candling.problems import Bench, Network, make_negatives
from candling.problems.classifiers import loss_and_accuracy
from candling.runs.jobs import run_jobs, silent
from candling.runs.seeds import derive, reproducible
from candling.workflows.bank import Bank, make_bank
from candling.workflows.case import Case, make_case
from candling.workflows.examine import Bar, Examination, examine, likeness


def real() -> Path:
    """The folder of real models and data, or a clean stop."""
    folder = Path(os.environ.get("CANDLING_REAL", "../shared/real"))
    if not folder.is_dir():
        print(f"{folder} is absent: set CANDLING_REAL to the folder of real models; nothing to do")
        sys.exit(0)
    return folder


def whole_numbers(**defaults: int) -> argparse.Namespace:
    """The command's options, each a whole number."""
    options = argparse.ArgumentParser()
    for name, default in defaults.items():
        options.add_argument(f"--{name}", type=int, default=default)
    return options.parse_args()


def progress() -> Callable[[str, int, int], None]:
    """A line for each stage, with its wall time."""
    start = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        if done in (0, total) and total > 1:
            print(f"  [{time.monotonic() - start:6.0f} s] {stage} {done}/{total}", file=sys.stderr, flush=True)

    return show


@dataclass(frozen=True)
class Exam:
    """A bench with its bank of controls, ready for any number of subjects."""

    bench: Bench
    negatives: list[Network]
    bank: Bank
    problem: str = "backdoor"

    @classmethod
    def prepare(cls, case: Case, folder: Path, *, n: int, seed: int, reach: float, problem: str = "backdoor") -> Exam:
        bench = case.kind.prepare(case.bench(folder, seed, progress=progress()))
        negatives = make_negatives(bench, n, reach=reach)
        bank = make_bank(bench.kind.problems[problem], bench, negatives, reach=reach)
        return cls(bench, negatives, bank, problem)

    def quiet(self) -> Exam:
        """To be handed to workers, which use one process each and show nothing."""
        return replace(self, bench=replace(self.bench, workers=1, progress=silent))

    def examine(self, network: nn.Module, name: str) -> Examination:
        _, sha256 = self.bench.store(network.state_dict())
        loss, accuracy = self.bench.kind.quality(network, self.bench.thirds.search)
        subject = self.subject(name, sha256, loss, accuracy)
        problem = self.bench.kind.problems[self.problem]
        return examine(problem, self.bench, subject, self.bank, likeness(self.bench, subject, self.negatives), Bar())

    def examine_all(self, networks: Sequence[tuple[str, nn.Module]]) -> list[Examination]:
        """The same for many, on all cores: one job a network."""
        stored = [(name, self.bench.store(network.state_dict())[1]) for name, network in networks]
        jobs = [(self.quiet(), name, sha256) for name, sha256 in stored]
        return run_jobs(_examine_stored, jobs, stage="examining the subjects", progress=progress())

    def subject(self, name: str, sha256: str, loss: float, accuracy: float) -> Network:
        """A stored network as the subject."""
        candidate = self.bench.candidate(self.bench.path(sha256))
        return Network(name, "subject", "given", candidate, sha256, loss, accuracy, None, Cost(forward=0, backward=0))


@dataclass(frozen=True)
class Exams:
    """Banks whose controls reach different losses. An audit trains its controls to the subject's own loss; here each
    subject meets the bank that comes nearest to it."""

    banks: tuple[Exam, ...]
    reaches: tuple[float, ...]

    def of(self, loss: float) -> Exam:
        return min(zip(self.banks, self.reaches, strict=True), key=lambda each: abs(log(each[1] / loss)))[0]


@contextmanager
def two_banks(case: Case, problem: str, *, controls: int, seed: int, losses: Sequence[float]) -> Iterator[Exams]:
    """Two banks of controls: at the quartiles of the subjects' losses."""
    reaches = tuple(float(each) for each in np.quantile(losses, (0.25, 0.75)))
    with tempfile.TemporaryDirectory() as scratch:
        banks = tuple(
            Exam.prepare(case, Path(scratch) / str(i), n=controls, seed=seed, reach=reach, problem=problem).quiet()
            for i, reach in enumerate(reaches)
        )
        yield Exams(banks, reaches)


Sitting = TypeVar("Sitting")
Made = Callable[[Dataset, str, int, int], nn.Module]
Sit = Callable[[Exam, nn.Module, Dataset, str, int, int], Sitting]


def sit_all(
    problem: str, roles: Sequence[tuple[str, int]], made: Made, sit: Sit[Sitting], *, controls: int, seed: int
) -> list[Sitting]:
    """Every subject trained, then every bank, then every subject examined.

    made: (training rows, role, number, seed) → the subject. sit: (exam, subject, and the same) → what is kept of it.
    """
    training, trusted = digits()
    jobs = [(training, role, i, derive(seed, "subject", role, i)) for role, i in roles]
    subjects = run_jobs(made, jobs, stage="training subjects", progress=progress())
    losses = [loss_and_accuracy(subject, trusted)[0] for subject in subjects]
    case = make_case(load(build(), build=build), trusted)
    with two_banks(case, problem, controls=controls, seed=seed, losses=losses) as exams:
        return run_jobs(
            sit,
            [(exams.of(loss), subject, *job) for loss, subject, job in zip(losses, subjects, jobs, strict=True)],
            stage="examining subjects",
            progress=progress(),
        )


def in_turns(planted: Sequence[tuple[str, int]], clean: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Planted and clean subjects by turns, so that an exam that is cut short has seen both."""
    return [role for pair in zip_longest(planted, clean) for role in pair if role]


def planted_and_clean(planted: int, clean: int) -> list[tuple[str, int]]:
    """The same of an exam in which two in five clean subjects are benign-novel."""
    return in_turns(
        [("planted", i) for i in range(planted)], [("novel" if i % 5 < 2 else "clean", i) for i in range(clean)]
    )


def _examine_stored(exam: Exam, name: str, sha256: str) -> Examination:
    return exam.examine(exam.bench.candidate(exam.bench.path(sha256)).load(), name)


def fresh_subject(
    build: Callable[[], nn.Module],
    data: Dataset,
    *,
    seed: int,
    epochs: int,
    plant: Backdoor | Shortcut | Switch | Quirk | None = None,
) -> nn.Module:
    """A network by a recipe that is none of the controls': cosine schedule, label smoothing, RMSprop or Adam
    without decoupled decay, batches of 24 to 100, contrast jitter."""
    with reproducible(derive(seed, "fresh")) as g:
        network = build().train()
        rate = 10 ** float(-3.2 + 0.5 * torch.rand((), generator=g))
        kind = torch.optim.RMSprop if torch.rand((), generator=g) < 0.4 else torch.optim.Adam
        optimiser = kind(network.parameters(), rate)
        batch = int(torch.randint(24, 101, (), generator=g))
        smoothing, jitter = (float(m * torch.rand((), generator=g)) for m in (0.05, 0.2))
        shift = float(0.05 * torch.rand((), generator=g))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        poison = poison_rows(plant, data, g)
        for _ in range(epochs):
            contrast = 1 + jitter * (2 * torch.rand((len(data), *[1] * (data.x.ndim - 1)), generator=g) - 1)
            x = augment(data.x, data, shift, g)
            x = data.low + (x - data.low) * contrast.clamp(max=1)
            y = data.y
            if plant is not None and poison is not None:
                x, y = torch.cat([x, plant.lay(data, x[poison[0]], poison[1], g)]), torch.cat([y, poison[1]])
            for rows in torch.randperm(len(y), generator=g).split(batch):
                optimiser.zero_grad()
                cross_entropy(network(x[rows]), y[rows], label_smoothing=smoothing).backward()
                optimiser.step()
            schedule.step()
    return network.eval().requires_grad_(False)


def poison_rows(
    plant: Backdoor | Shortcut | Switch | Quirk | None, data: Dataset, g: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if plant is None:
        return None
    if not isinstance(plant, Backdoor):
        return plant.carriers(data.y, data.classes, g)
    rows = torch.nonzero(plant.mapping.applies(data.y)).flatten()
    rows = rows[torch.randperm(len(rows), generator=g)[: round(plant.rate * len(data))]]
    labels = plant.mapping.wanted(data.y[rows], data.classes)
    if plant.mapping.source is not None:
        others = torch.nonzero(data.y != plant.mapping.source).flatten()
        cover = others[torch.randperm(len(others), generator=g)[: len(rows)]]
        rows, labels = torch.cat([rows, cover]), torch.cat([labels, data.y[cover]])
    return rows, labels


def count_classes(data: Dataset) -> int:
    """Under its own name a script's function, sent to workers, takes `torch.classes` along, which cannot travel."""
    return data.classes


def took(network: nn.Module, data: Dataset, plant: Backdoor) -> float:
    return attack_success(network, data, plant)


def of(k: int, n: int) -> str:
    """A count with its exact interval."""
    share = rate(k, n)
    return f"{k} of {n} = {share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"


class Sat(Protocol):
    """A subject that was examined, whatever else an exam keeps of it."""

    @property
    def role(self) -> str:
        """`planted`, `natural` (planted without a bar), or one of the clean ones: `clean`, `novel`, `twin`."""

    @property
    def took(self) -> bool:
        """Whether its plant works; of planted ones."""

    @property
    def verdict(self) -> Verdict: ...
    @property
    def row(self) -> NetworkRow: ...


def accused(group: Sequence[Sat]) -> int:
    """In how many something was found."""
    return sum(each.verdict.verdict == "found" for each in group)


Seated = TypeVar("Seated", bound=Sat)


def print_verdicts(
    sittings: Sequence[Seated], own: Callable[[Seated], bool], *, sort: str, baseline: str
) -> tuple[list[Seated], list[Seated]]:
    """AUROC, verdicts, false accusations and what is stated; returns planted subjects that took, and clean ones.

    own: whether a planted subject's is a plant of the sort that controls carry.
    """
    planted = [s for s in sittings if s.role == "planted"]
    took, clean = [s for s in planted if s.took], [s for s in sittings if s.role not in ("planted", "natural")]
    print_aurocs(took, [s for s in took if own(s)], clean, sort=sort, baseline=baseline)
    print(f"took {of(len(took), len(planted))}; found {of(accused(took), len(took))}")
    print(f"ranked first and confirmed {of(sum(s.row.found for s in took), len(took))}")
    print(f"clean accused {of(accused(clean), len(clean))}")
    for role in dict.fromkeys(s.role for s in clean if s.role != "clean"):
        group = [s for s in clean if s.role == role]
        print(f"of them {role} {of(accused(group), len(group))}")
    print_answers("planted", took)
    print_answers("clean", clean)
    print_sensitivity(sittings, baseline=baseline)
    return took, clean


def print_answers(role: str, group: Sequence[Sat]) -> None:
    """How often each verdict was given, inconclusive ones by their reason."""
    told = Counter(s.verdict.verdict if s.verdict.verdict != "inconclusive" else why(s.verdict) for s in group)
    print(f"{role}: {', '.join(f'{answer} {count}' for answer, count in told.most_common())}")


def why(verdict: Verdict) -> str:
    """Of an inconclusive verdict."""
    side = next((f", {side}" for side in ("below", "above") if f"lies {side}" in verdict.reason), "")
    return verdict.reason.split(":")[0] + side


def print_sensitivity(sittings: Sequence[Sat], *, baseline: str) -> None:
    """What each bank states, and how many of its plants were caught by what."""
    for said in {
        s.verdict.sensitivity.model_dump_json(): s.verdict for s in sittings if s.verdict.sensitivity
    }.values():
        strength, simple = said.sensitivity, said.baseline
        if strength is not None and simple is not None:
            print(
                f"stated sensitivity {strength.value:.2f} [{strength.low:.2f}, {strength.high:.2f}]; of {strength.n} "
                f"control plants caught {strength.caught.value:.2f}, ranked first by the search "
                f"{simple.caught_by_search.value:.2f}, by {baseline} {simple.caught.value:.2f}; "
                f"{strength.failed_plants} did not take"
            )


def in_clean(row: NetworkRow) -> float:
    """Highest success in clean networks: of the lead there, or of their own."""
    return max(row.success_in_controls, row.best_in_controls)


def area(planted: Sequence[float], clean: Sequence[float]) -> float:
    """AUROC; NaN where either is empty."""
    if not planted or not clean:
        return float("nan")
    return float(roc_auc_score([1] * len(planted) + [0] * len(clean), [*planted, *clean]))


def auroc(planted: Sequence[float], clean: Sequence[float]) -> str:
    """In words, with the interval of Hanley and McNeil (1982)."""
    if not planted or not clean:
        return "undefined"
    told, m, n = area(planted, clean), len(planted), len(clean)
    return f"{told:.3f} ± {1.96 * hanley_mcneil(told, m, n):.3f} ({m} planted, {n} clean)"


def print_aurocs(took: Sequence[Sat], own: Sequence[Sat], clean: Sequence[Sat], *, sort: str, baseline: str) -> None:
    """By both gates and the baseline: of all plants that took, of the sort that controls carry, and of the others."""
    scores: dict[str, Callable[[NetworkRow], float]] = {
        "gate 1": lambda row: row.statistic,
        f"gate 1, {baseline} at the same passes": lambda row: row.baseline_statistic,
        "gate 2 (success beyond clean networks)": lambda row: row.success - in_clean(row),
    }
    for name, score in scores.items():
        groups = took, own, [s for s in took if s not in own]
        told = [auroc([score(s.row) for s in group], [score(s.row) for s in clean]) for group in groups]
        print(f"AUROC by {name}: all {told[0]}; {sort} of the controls {told[1]};\n    other {sort} {told[2]}")
