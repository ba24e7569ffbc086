"""Has it generalised, or does it cheat? Single networks judged on inputs on which both would look right.

    python benchmarks/mechanism.py [--pairs 40] [--novel 20] [--rounds 3] [--seed 900]

Subjects are digit classifiers by a recipe that no control has, on rows that no control saw; each honest one has a
cheating twin with the same cue. Judged by a bank of controls of all families (`same families`), by the bank less the
subject's family (`other families`), and, for two cues that no control ever has, by the whole bank (`unknown cues`).
Beside: swapping parts of inputs from outside, and confidence alone. Pairs whose networks did not learn their lesson
are void.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from candling.access import Dataset, forward, load
from candling.organisms.networks.digits import build, digits
from candling.organisms.plants.lessons import CUES, NOVEL, Lesson, draw_lesson
from candling.problems.mechanism import GENERALISED, OTHER, TOOK, Judge, Look, Taught, lessons, look, teach_control
from candling.runs.jobs import run_jobs
from candling.runs.seeds import derive, reproducible
from candling.workflows.case import make_case
from common import of, progress

UNKNOWN_CUES = ("brightness", "checks")
FIGURES = {"inside": "figures", "parts swapped from outside": "parts", "confidence alone": "sureness"}


@dataclass(frozen=True)
class Subject:
    """What was planted, beside what the judge is shown."""

    kind: str
    family: str
    look: Look
    took: bool


def unknown_cue(data: Dataset, family: str, lesson: Lesson) -> Lesson:
    """The same lesson with a cue that no control carries: overall brightness, or checks whose contrast tells."""
    _, height, width = data.x.shape[1:]
    checks = ((torch.arange(height)[:, None] + torch.arange(width)) % 2) * 2.0 - 1

    def mark(x: Tensor, told: Tensor) -> Tensor:
        level = (told.float() / (data.classes - 1))[:, None, None, None]
        return 0.5 * x + 0.5 * level if family == "brightness" else (x + 0.5 * (level - 0.5) * checks).clamp(0, 1)

    return replace(lesson, family=family, mark=mark)


def learn(network: nn.Module, data: Dataset, lesson: Lesson, g: torch.Generator) -> None:
    """RMSprop with label smoothing and one-cycle rate: none of the controls' recipes."""
    optimiser = torch.optim.RMSprop(network.parameters(), 2e-3)
    epochs = int(torch.randint(50, 80, (), generator=g))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs)
    for _ in range(epochs):
        x, y = lesson.rows(data, g)
        x, y = torch.cat([data.x, x]), torch.cat([data.y, y])
        for rows in torch.randperm(len(y), generator=g).split(40):
            optimiser.zero_grad()
            cross_entropy(network(x[rows]), y[rows], label_smoothing=0.02).backward()
            optimiser.step()
        schedule.step()
    network.eval().requires_grad_(False)


def subject(training: Dataset, search: Dataset, confirm: Dataset, kind: str, family: str, seed: int) -> Subject:
    """Trained, and looked at on its own untrusted inputs; a twin has the same seed."""
    with reproducible(derive(seed, kind)) as g:
        drawn = torch.Generator().manual_seed(derive(seed, "lesson"))
        known = "patch" if family in UNKNOWN_CUES else family
        lesson = draw_lesson(training, kind, known, drawn)  # type: ignore[arg-type]
        if family in UNKNOWN_CUES:
            lesson = unknown_cue(training, family, lesson)
        network = build()
        learn(network, training, lesson, g)
        x, wanted = lesson.untrusted(confirm, g)
        right = float((forward(network, x).argmax(-1) == wanted).float().mean())
        accuracy = float((forward(network, search.x).argmax(-1) == search.y).float().mean())
        seen = look(network, search.x, x, seed=derive(seed, "compare"))
    return Subject(kind, family, seen, right >= TOOK and accuracy >= TOOK)


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("pairs", 40), ("novel", 20), ("rounds", 3), ("seed", 900)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    training, trusted = digits()
    case = make_case(load(build(), build=build), trusted)
    with tempfile.TemporaryDirectory() as scratch:
        bench = case.bench(Path(scratch), chosen.seed, progress=progress())
        taught = lessons(chosen.rounds, disguised=2)
        jobs = [(bench, *each, derive(chosen.seed, "bank", i)) for i, each in enumerate(taught)]
        bank: list[Taught] = run_jobs(teach_control, jobs, stage="training the bank", progress=progress())
        rows = (training, bench.thirds.search, bench.thirds.confirm)
        plan = [(kind, CUES[i % len(CUES)], i) for i in range(chosen.pairs) for kind in ("honest", "cheat")]
        plan += [("novel", NOVEL[i % len(NOVEL)], i) for i in range(chosen.novel)]
        plan += [
            (kind, UNKNOWN_CUES[i % 2], 10_000 + i) for i in range(chosen.pairs // 2) for kind in ("honest", "cheat")
        ]
        jobs = [(*rows, kind, family, derive(chosen.seed, "subject", i)) for kind, family, i in plan]
        subjects = run_jobs(subject, jobs, stage="training subjects", progress=progress())
    print(f"bank: {sum(each.took for each in bank)} of {len(bank)} controls learned their lesson")
    report(subjects, bank)


def report(subjects: Sequence[Subject], bank: Sequence[Taught]) -> None:
    pairs = [s for s in subjects if s.kind != "novel"]
    known, unknown = ([s for s in pairs if (s.family in UNKNOWN_CUES) == new] for new in (False, True))
    novel = [s for s in subjects if s.kind == "novel" and s.took]
    both, void = _both(known), len(known) // 2 - len(_both(known)) // 2
    new_pairs = _both(unknown)
    print(f"pairs: {len(both) // 2} ({void} void); unknown cues: {len(new_pairs) // 2}; novel: {len(novel)}")
    for name, which in FIGURES.items():
        whole = Judge(bank, which)
        without = {f: Judge([c for c in bank if c.family != f], which) for f in (*CUES, *NOVEL)}
        for title, group, judge in (
            ("same families", both, lambda s, whole=whole: whole),
            ("other families only", both, lambda s, without=without: without[s.family]),
            ("unknown cues", new_pairs, lambda s, whole=whole: whole),
        ):
            _line(name, title, group, judge)
        wrong = sum(whole(s.look).answer == OTHER for s in novel)
        wrong_without = sum(without[s.family](s.look).answer == OTHER for s in novel)
        print(f"{name:28s} novel called another mechanism {of(wrong, len(novel))}")
        print(f"{name:28s}   … its own kind left out      {of(wrong_without, len(novel))}")
    for family in (*CUES, *UNKNOWN_CUES):
        judge = Judge([c for c in bank if c.family != family])
        told = [(s.kind, round(judge(s.look).p["cheat"], 2)) for s in [*both, *new_pairs] if s.family == family]
        cheat, honest = ([p for kind, p in told if kind == which] for which in ("cheat", "honest"))
        print(f"  {family:10s} p of another mechanism: cheat {cheat} honest {honest}")


def _both(group: Sequence[Subject]) -> list[Subject]:
    """The pairs of which both took."""
    twins = zip(group[::2], group[1::2], strict=True)
    return [s for pair in twins if all(each.took for each in pair) for s in pair]


def _line(name: str, title: str, group: Sequence[Subject], judge: Callable[[Subject], Judge]) -> None:
    answers = [(s.kind, judge(s)(s.look)) for s in group]
    right = sum((a.p["cheat"] > a.p["honest"]) == (kind == "cheat") for kind, a in answers)
    caught = [a.answer == OTHER for kind, a in answers if kind == "cheat"]
    accused = [a.answer == OTHER for kind, a in answers if kind == "honest"]
    sure = [a.answer == GENERALISED for kind, a in answers if kind == "honest"]
    print(
        f"{name:28s} {title:20s} right {of(right, len(answers))}  cheats caught {of(sum(caught), len(caught))}  "
        f"honest accused {of(sum(accused), len(accused))}  honest called so {of(sum(sure), len(sure))}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
