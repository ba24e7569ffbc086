"""Solve: answers → proposals → agreement and diagnostics → mechanism → verdict → record. One way."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from candling._version import VERSION
from candling.access import Model, load
from candling.access.unlabelled import Unlabelled, by_hash, logits_of, mean_gradient, unlabelled
from candling.errors import InputError
from candling.evidence.control import RunInfo
from candling.evidence.measurement import Cost
from candling.evidence.program import Answers, Logic, Program, features_of, run_program
from candling.evidence.solution import NullRow, RivalRow, Site, Solution
from candling.report.program_text import says
from candling.runs.jobs import Progress, silent
from candling.runs.record import intact, open_run
from candling.runs.seeds import derive, reproducible
from candling.techniques.propose import GRAMMARS, Programs, Proposal, Seen
from candling.techniques.propose.opaque import Opaque, fit_opaque
from candling.techniques.verify.agreement import Agreement, agree, levelled, rate
from candling.techniques.verify.carried import Told, examine
from candling.techniques.verify.placing import find_place
from candling.workflows.audit import Origin
from candling.workflows.inputs import lasting
from candling.workflows.solve_inputs import Problem, make_problem
from candling.workflows.solve_record import SolutionRecord, claims_of, differences, exemplars, histograms, three_way
from candling.workflows.solve_verdict import Found, behaviour_fails, limits, outcome

SPLIT = (0.6, 0.4)
"""Proposing and verifying."""
_UNTRAINED, _RIVALS = 2, 6
_APART = 0.01
"""A rival differs from the program on at least so many of the inputs that refine."""


@dataclass(frozen=True)
class Solved:
    """A finished solution. `folder` holds the same record, if one was asked for."""

    record: SolutionRecord
    folder: Path | None

    @property
    def solution(self) -> Solution:
        return self.record.solution

    @property
    def exit_code(self) -> int:
        """0 solved, 1 behaviour only, 6 neither."""
        return {"solved": 0, "behaviour only": 1}.get(self.solution.outcome, 6)

    def report(self) -> str:
        """The report as one HTML page."""
        return self.record.page()


def command_origin(model: str, weights: str | None, data: Path, truth: Path | None, concepts: Path | None) -> Origin:
    """What the user named, for `run.json`."""
    return Origin(
        model=lasting(model),
        weights=lasting(weights),
        trusted=lasting(str(data)),
        reference=lasting(str(truth)) if truth else None,
        untrusted=lasting(str(concepts)) if concepts else None,
    )


def solve(
    problem: Problem,
    *,
    grammar: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = silent,
    origin: Origin = Origin(trusted="arrays in memory"),  # noqa: B008 -- frozen
) -> Solved:
    """Which program does this network compute?

    problem: from `make_problem`. grammar: `auto` by the kind of input, or its name. out: a folder for the record, new
    or of the same solution; None keeps it in memory. Raises InputError on a grammar that does not fit the inputs.
    """
    started = time.monotonic()
    kind = problem.data.kind
    if grammar not in ("auto", kind) or kind not in GRAMMARS:
        has = ", ".join(GRAMMARS)
        raise InputError("grammar", f"{grammar!r} is not for {kind}: choose auto, or give inputs of {has}")
    with open_run(out, problem.identity() | {"grammar": grammar, "seed": str(seed)}) as (folder, ledger):
        if ledger is not None and intact(folder, ledger):
            return Solved(SolutionRecord.read(folder), out)
        with reproducible(seed):
            solution = _run(problem, seed, progress)
            threads = torch.get_num_threads()
        info = RunInfo(
            candling=VERSION,
            model=origin.model,
            weights=origin.weights,
            trusted=origin.trusted,
            reference=origin.reference,
            settings={"grammar": grammar, "seed": seed, "concepts": origin.untrusted},
            seconds=round(time.monotonic() - started, 1),
            threads=threads,
            python=platform.python_version(),
            torch=torch.__version__,
        )
        record = SolutionRecord(solution, info)
        if ledger is not None:
            record.write(folder, ledger)
    return Solved(record, out)


def solve_network(
    network: nn.Module | Model,
    x: Any,
    *,
    truth: Any = None,
    concepts: Any = None,
    grammar: str = "auto",
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = silent,
) -> Solved:
    """Which program does this network compute? From a network in memory and inputs that it was not trained on.

    x: images [n, H, W] or [n, C, H, W], whole numbers [n, 2] (pairs) or [n, L] (tokens), without labels. truth: [n]
    what is right, only to compare with. concepts: [n, k] whole numbers, what somebody else sees in each image. The
    rest as in `solve`. Raises InputError on inputs that do not fit the network.
    """
    model = network if isinstance(network, Model) else load(network)
    problem = make_problem(model, unlabelled(x), truth=truth, concepts=concepts)
    return solve(problem, grammar=grammar, seed=seed, out=out, progress=progress)


def parts_of(data: Unlabelled, seed: int) -> tuple[Unlabelled, Unlabelled, np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Inputs that propose, inputs that verify, and the rows of the latter."""
    proposing, verifying = by_hash(data, f"solve {seed}", SPLIT)
    return data.take(proposing), data.take(verifying), verifying


def seen_by(module: nn.Module, data: Unlabelled) -> Seen:
    """What a proposer sees of a network: its answers, and for images its mean gradient."""
    logits = logits_of(module, data.x)
    return Seen(
        data.kind,
        data.array,
        logits.argmax(1).numpy(),
        logits.shape[1],
        pool=data.exemplars.numpy(),
        concepts=data.concepts,
        direction=mean_gradient(module, data.x) if data.kind == "images" else None,
    )


def _run(problem: Problem, seed: int, progress: Progress) -> Solution:
    """All stages, in order."""
    stages = 5
    progress("solving", 0, stages)
    module, data = problem.model.module, problem.data
    proposing, verifying, rows = parts_of(data, seed)
    seen = seen_by(module, proposing)
    logits = logits_of(module, verifying.x)
    programs = GRAMMARS[data.kind](seen)
    progress("solving", 1, stages)
    opaque = fit_opaque(seen)
    best = programs.proposals[0] if programs.proposals else None
    rivals = _rivals(programs, seen)
    compared = _compare(best, rivals, opaque, verifying, logits)
    progress("solving", 2, stages)
    nulls = _nulls(problem, seen, verifying, logits, seed)
    progress("solving", 3, stages)
    site = _mechanism(module, best, compared, (proposing, verifying), seed)
    progress("solving", 4, stages)
    parts = three_way(problem, best.program if best else None, rows)
    found = Found(best, compared, seen, logits, parts, site=site)
    said, why = outcome(found)
    solution = Solution(
        schema=1,
        candling=VERSION,
        weights=problem.model.sha256,
        architecture=problem.model.architecture.sha256,
        data=data.sha256,
        seed=seed,
        kind=data.kind,
        inputs=len(data),
        proposing=len(proposing),
        classes=seen.classes,
        outcome=said,
        reason=why,
        program=best.program if best else None,
        says=says(best.program) if best else "no program",
        bits=best.bits if best else 0.0,
        tried=programs.tried,
        agreement=compared.agreement if compared else None,
        confident=compared.confident if compared else None,
        histograms=histograms(best.program, verifying, logits.argmax(1).numpy(), seen.classes) if best else [],
        sides=(data.x.amax(0) + 1).int().tolist() if data.kind == "pairs" else [],
        nulls=nulls,
        rivals=_rows(compared, rivals),
        parts=parts,
        exemplars=exemplars(best.program, data) if best else [],
        differences=differences(best.program, verifying, rows, logits) if best else [],
        different=compared.agreement.n - round(compared.agreement.value * compared.agreement.n) if compared else 0,
        site=site,
        cost=Cost(forward=len(data) * (1 + _UNTRAINED), backward=0),
        limits=limits(found),
        claims=[],
    )
    progress("solving", stages, stages)
    return solution.model_copy(update={"claims": claims_of(solution)})


def _mechanism(
    module: nn.Module,
    best: Proposal | None,
    compared: Agreement | None,
    parts: tuple[Unlabelled, Unlabelled],
    seed: int,
) -> Site | None:
    """Looked for where the behaviour is explained; found on the inputs that propose, tested on the others."""
    if best is None or compared is None or behaviour_fails(best, compared) is not None:
        return None
    choosing, testing = (told(best.program, data) for data in parts)
    place = find_place(module, choosing, seed=derive(seed, "place"))
    return examine(module, place, testing, seed=derive(seed, "examine")) if place else None


def told(program: Program, data: Unlabelled) -> Told:
    """What a program says of inputs: its answers, and the score that it reads first."""
    score = np.asarray(features_of(program)[0].scores(data.inputs), dtype=np.float64)
    return Told(data.x, run_program(program, data.inputs), score)


def _rivals(programs: Programs, seen: Seen) -> dict[str, Proposal]:
    """The next best programs that differ from the best one on a hundredth of the inputs, and are not made of it.

    A join that answers much as one of its parts does, which reads what the best program reads, is that program with
    other edges, and no rival.
    """
    if not programs.proposals:
        return {}
    best, *others = programs.proposals
    said = run_program(best.program, seen.inputs)
    kept: dict[str, Proposal] = {}
    for each in others:
        if (
            not _made_of(best.program, each.program, seen)
            and (run_program(each.program, seen.inputs) != said).mean() >= _APART
        ):
            kept.setdefault(says(each.program), each)
        if len(kept) == _RIVALS:
            break
    return kept


def _made_of(best: Program, other: Program, seen: Seen) -> bool:
    if not isinstance(other, Logic):
        return False
    whole = run_program(other, seen.inputs)
    return any(
        part == best
        or (features_of(part) == features_of(best) and (run_program(part, seen.inputs) != whole).mean() < _APART)
        for part in (other.first, other.second)
    )


def _compare(
    best: Proposal | None,
    rivals: dict[str, Proposal],
    opaque: Sequence[Opaque],
    verifying: Unlabelled,
    logits: Tensor,
) -> Agreement | None:
    if best is None:
        return None
    inputs = verifying.inputs
    answers: dict[str, Answers] = {name: run_program(each.program, inputs) for name, each in rivals.items()}
    fitted = {each.name: each.answer(verifying.array) for each in opaque}
    return agree(logits, run_program(best.program, inputs), answers, fitted)


def _rows(compared: Agreement | None, rivals: dict[str, Proposal]) -> list[RivalRow]:
    return [
        RivalRow(
            name=each.name,
            program=rivals[each.name].program if each.name in rivals else None,
            agreement=each.agreement,
            sides=each.sides,
            refuted=each.refuted,
        )
        for each in (compared.rivals if compared else ())
    ]


def _nulls(problem: Problem, seen: Seen, verifying: Unlabelled, logits: Tensor, seed: int) -> list[NullRow]:
    """The commonest answer, and what the same search explains of untrained networks of this architecture."""
    found = [NullRow(name="the commonest answer", agreement=rate(logits.argmax(1).numpy() == seen.common))]
    inputs = verifying.inputs
    proposing, _, _ = parts_of(problem.data, seed)
    for number in range(_UNTRAINED):
        torch.manual_seed(derive(seed, "untrained", number))
        fresh = problem.model.architecture()
        every = torch.cat([logits_of(fresh, part.x) for part in (proposing, verifying)])
        answers = levelled(every, np.concatenate([seen.answers, logits.argmax(1).numpy()]))
        own = replace(seen, answers=answers[: len(seen)])
        programs = GRAMMARS[seen.kind](own)
        if programs.proposals:
            said = run_program(programs.proposals[0].program, inputs)
            name = f"untrained network {number + 1}, its own best program"
            found.append(NullRow(name=name, agreement=rate(said == answers[len(seen) :])))
    return found
