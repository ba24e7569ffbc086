"""The folder of a solution, and how results become what is written there.

solution.json    what was found, for programs; the same bytes for the same seed
program.py       the program, which runs on its own
run.json         how it was run: inputs, settings, time; the only file with paths and times
report.html
ledger.sqlite    what the folder belongs to, and that the run is finished
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from candling.access.unlabelled import Unlabelled, logits_of
from candling.evidence.claim import Claim
from candling.evidence.control import RunInfo
from candling.evidence.measurement import Rate
from candling.evidence.program import Program, exemplars_of, features_of, run_program
from candling.evidence.solution import Difference, Exemplar, Histogram, Solution, ThreeWay
from candling.report.program_text import program_source
from candling.report.solution import draw_solution
from candling.runs.files import write_whole
from candling.runs.ledger import Ledger
from candling.runs.record import dump, read_part, seal
from candling.techniques.verify.agreement import rate
from candling.workflows.solve_inputs import Labels, Problem

FILE, SOURCE = "solution.json", "program.py"
_SHOWN, _BINS = 12, 60


@dataclass(frozen=True)
class SolutionRecord:
    """All that the page is drawn from and the claims are replayed from."""

    solution: Solution
    info: RunInfo

    def write(self, folder: Path, ledger: Ledger) -> None:
        """Each file whole or not at all, then the seal. Raises EnvironmentFault."""
        files = [FILE, "run.json", "report.html"]
        write_whole(folder / FILE, dump(self.solution).encode())
        write_whole(folder / "run.json", dump(self.info).encode())
        if self.solution.program is not None:
            write_whole(folder / SOURCE, self.source(self.solution.program).encode())
            files.append(SOURCE)
        write_whole(folder / "report.html", SolutionRecord.read(folder).page().encode())
        seal(folder, ledger, files)

    @staticmethod
    def read(folder: Path) -> SolutionRecord:
        """Raises InputError naming the file that is missing or damaged."""
        return SolutionRecord(read_part(folder, FILE, Solution), read_part(folder, "run.json", RunInfo))

    def source(self, program: Program) -> str:
        """The text of `program.py`."""
        agreed = self.solution.agreement
        said = self.solution
        share = f"{agreed.value:.1%} of {agreed.n:,} inputs" if agreed else "no inputs"
        name = self.info.model.rsplit("/", 1)[-1]
        return program_source(
            program, f"What {name} computes ({self.solution.outcome}): agrees on {share}.", said.exemplars
        )

    def page(self) -> str:
        """The report as one HTML page."""
        return draw_solution(self.solution, self.info)


def is_solution(folder: Path) -> bool:
    return (folder / FILE).is_file()


def three_way(problem: Problem, program: Program | None, verifying: NDArray[np.intp]) -> list[ThreeWay]:
    """Network, program and truth, on what the network was trained on and on what verifies, apart."""
    parts: list[tuple[str, Unlabelled | None, Labels | None]] = [
        ("trained on", problem.trained_on, problem.truth_trained_on),
        ("not trained on", problem.data.take(verifying), None if problem.truth is None else problem.truth[verifying]),
    ]
    rows = []
    for name, data, truth in parts:
        if data is None or (program is not None and not _readable(program, data)):
            continue
        network = logits_of(problem.model.module, data.x).argmax(1).numpy()
        said = network * 0 - 1 if program is None else run_program(program, data.inputs)
        rows.append(
            ThreeWay(
                part=name,
                network_program=rate(network == said),
                network_truth=None if truth is None else rate(network == truth),
                program_truth=None if truth is None else rate(said == truth),
            )
        )
    return rows


def _readable(program: Program, data: Unlabelled) -> bool:
    """Has it the concepts that the program asks for?"""
    asked = [feature.params[0] for feature in features_of(program) if feature.formula == "concept"]
    return not asked or (data.concepts is not None and max(asked) < data.concepts.shape[1])


def differences(program: Program, data: Unlabelled, rows: NDArray[np.intp], logits: Tensor) -> list[Difference]:
    """Where network and program differ, the network's surest first."""
    said = run_program(program, data.inputs)
    answers, top = logits.argmax(1).numpy(), logits.topk(2, 1).values
    margin = (top[:, 0] - top[:, 1]).numpy()
    apart = np.flatnonzero(said != answers)
    apart = apart[np.argsort(-margin[apart], kind="stable")][:_SHOWN]
    return [
        Difference(
            row=int(rows[at]),
            shown="image" if data.kind == "images" else " ".join(map(str, data.x[at].flatten()[:24].int().tolist())),
            network=int(answers[at]),
            program=int(said[at]),
            margin=float(margin[at]),
        )
        for at in apart
    ]


def histograms(program: Program, data: Unlabelled, answers: Labels, classes: int) -> list[Histogram]:
    """Each score that the program reads, a bin for each value where there are few."""
    inputs, found = data.inputs, []
    for feature in features_of(program):
        scores = np.asarray(feature.scores(inputs), dtype=np.float64)
        values = np.unique(scores)
        if len(values) <= _BINS and (values % 1 == 0).all():
            edges = np.arange(values[0], values[-1] + 2) - 0.5
            edges = edges if len(edges) <= 2 * _BINS else np.linspace(edges[0], edges[-1], _BINS + 1)
        else:
            edges = np.linspace(values[0], values[-1], _BINS + 1)
        counts = np.stack([np.histogram(scores[answers == c], edges)[0] for c in range(classes)], axis=1)
        found.append(Histogram(score=feature.written(), edges=edges.tolist(), counts=counts.tolist()))
    return found


def exemplars(program: Program, data: Unlabelled) -> list[Exemplar]:
    """The images that the program names."""
    pool = data.inputs.get("e")
    return [Exemplar(row=row, pixels=pool[row].tolist()) for row in exemplars_of(program)] if pool is not None else []


def claims_of(solution: Solution) -> list[Claim]:
    """What a third party can run again."""
    claims = [_claim("inputs", "Weights, architecture and data are those that were solved.", 1.0)]
    if solution.agreement is not None:
        n = f"{solution.agreement.n:,} inputs that were not used to propose it"
        claims.append(_claim("agreement", f"Network and program agree on {n}.", solution.agreement.value))
    rival = readable_rival(solution)
    if rival is not None:
        what = f"Where the program differs from its best readable rival ({rival[0]}), the network sides with it."
        claims.append(_claim("diagnostic", what, rival[1].value))
    if solution.site is not None:
        what = f"With the {len(solution.site.units)} units of {solution.site.site} patched, answers follow the donor."
        claims.append(_claim("site", what, solution.site.follows.value))
    return claims


def readable_rival(solution: Solution) -> tuple[str, Rate] | None:
    """The first in the list that is a program."""
    return next(((each.name, each.sides) for each in solution.rivals if each.program is not None), None)


def _claim(kind: str, sentence: str, predicted: float) -> Claim:
    return Claim.model_validate(
        {
            "id": f"solve/{kind}",
            "kind": kind,
            "problem": "solve",
            "sentence": sentence,
            "predicted": float(f"{predicted:.6g}"),
            "tolerance": 0.0 if kind == "inputs" else 0.005,
        }
    )
