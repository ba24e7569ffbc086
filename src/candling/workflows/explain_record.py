"""The folder of an explanation, and how results become what is written there.

explanation.json        what was found, for programs; the same bytes for the same seed
run.json                how it was run: inputs, settings, time; the only file with paths and times
evidence.safetensors    maps, attribution, exact effects, the circuit's edges, the check's sample
report.html
ledger.sqlite           what the folder belongs to, and that the run is finished
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.graph import Graph
from candling.access.pairs import Pairs
from candling.access.tokenizer import Tokenizer
from candling.errors import InputError
from candling.evidence.control import RunInfo
from candling.evidence.explanation import (
    Behaviour,
    CheckRecord,
    CircuitRecord,
    CurvePoint,
    EdgeRow,
    Explanation,
    Heat,
    MissRow,
    Place,
    UntrainedPoint,
)
from candling.report import numerals
from candling.report.explain import draw_explanation
from candling.runs.files import write_whole
from candling.runs.ledger import Ledger
from candling.runs.record import ARRAYS, dump, read_arrays, read_part, seal, write_arrays
from candling.techniques.locate.check import Check
from candling.techniques.locate.circuit import FoundCircuit
from candling.techniques.locate.contract import Scores
from candling.techniques.locate.faithfulness import difference

FILE = "explanation.json"
_ANSWERS = 6
_FILES = (FILE, "run.json", ARRAYS, "report.html")


@dataclass(frozen=True)
class ExplanationRecord:
    """All that the page is drawn from and the claim is replayed from."""

    explanation: Explanation
    info: RunInfo
    arrays: Mapping[str, NDArray[Any]]

    def write(self, folder: Path, ledger: Ledger) -> None:
        """Each file whole or not at all, then the seal. Raises EnvironmentFault."""
        write_whole(folder / FILE, dump(self.explanation).encode())
        write_whole(folder / "run.json", dump(self.info).encode())
        write_arrays(folder, self.arrays)
        page = ExplanationRecord.read(folder).page()  # from what is on the disk, to six digits, as it is drawn again
        write_whole(folder / "report.html", page.encode())
        seal(folder, ledger, _FILES)

    @staticmethod
    def read(folder: Path) -> ExplanationRecord:
        """Raises InputError naming the file that is missing or damaged."""
        explanation = read_part(folder, FILE, Explanation)
        record = ExplanationRecord(explanation, read_part(folder, "run.json", RunInfo), read_arrays(folder))
        kept = record.arrays.get("circuit")
        graph = record.graph
        if kept is None or kept.shape != tuple(graph.edges.shape):
            raise InputError("record", f"{folder / ARRAYS} does not hold the circuit of {FILE}")
        return record

    @property
    def graph(self) -> Graph:
        """Its heads and groups are what the page and the arrays need; the rest is the common case."""
        found = self.explanation.circuit
        return Graph(
            heads=tuple(found.heads),
            groups=tuple(found.groups),
            mlps=tuple(found.mlps),
            parallel=tuple(found.parallel),
        )

    @property
    def kept(self) -> Tensor:
        """bool [senders, receivers]"""
        return torch.from_numpy(self.arrays["circuit"].astype(np.bool_))

    def page(self) -> str:
        """The report as one HTML page."""
        return draw_explanation(self.explanation, self.arrays, self.info)


def is_explanation(folder: Path) -> bool:
    return (folder / FILE).is_file()


def describe_circuit(found: FoundCircuit) -> CircuitRecord:
    """Effects as a share of the gap on the finding half: 1 where cutting the edge loses all of it."""
    graph, whole = found.circuit.graph, found.scores.corrupt - found.scores.clean
    rows = []
    for sender, receiver in torch.nonzero(found.circuit.kept).tolist():
        effect = float(found.effects[sender, receiver]) / whole
        rows.append(
            EdgeRow(
                sender=str(graph.senders[sender]),
                receiver=str(graph.receivers[receiver]),
                effect=None if math.isnan(effect) else effect,
                score=float(found.scores.values[sender, receiver]) / whole,
            )
        )
    return CircuitRecord(
        edges=found.point.edges,
        of=found.edges,
        heads=list(graph.heads),
        groups=list(graph.groups),
        mlps=list(graph.mlps),
        parallel=list(graph.parallel),
        faithfulness=found.point.held_out,
        random=found.point.random,
        random_most=found.point.random_most,
        error=found.error,
        rows=sorted(rows, key=lambda row: -abs(row.effect if row.effect is not None else row.score)),
        curve=[CurvePoint(**vars(point)) for point in found.curve],
        untrained=[UntrainedPoint(edges=size, held_out=share) for size, share in found.untrained],
        untrained_gap=found.untrained_gap,
    )


def describe_check(checked: Check, scores: Scores) -> CheckRecord:
    whole = scores.corrupt - scores.clean
    return CheckRecord(
        technique=checked.technique,
        parts=len(checked.at),
        of=checked.parts,
        pearson=checked.pearson,
        important=checked.important,
        missed=[
            MissRow(part=" → ".join(miss.part), exact=miss.exact / whole, scored=miss.scored / whole)
            for miss in checked.missed
        ],
        unidentified=list(checked.unidentified),
    )


def describe_places(pairs: Pairs, tokenizer: Tokenizer) -> list[Place]:
    """The tokens at each position from the first that differs; all pairs are of one length."""
    end = int(pairs.last[0]) + 1
    return [
        Place(
            clean=tokenizer.piece(int(pairs.clean[0, at])),
            corrupt=tokenizer.piece(int(pairs.corrupt[0, at])),
            same=bool((pairs.clean[:, at] == pairs.corrupt[:, at]).all()),
            tokens=len(pairs.clean[:, at].unique()),
        )
        for at in range(pairs.first, end)
    ]


def describe_map(name: str, scores: Scores, pairs: int) -> Heat:
    rows, columns = scores.axes
    return Heat(name=name, rows=list(rows.labels), columns=list(columns.labels), pairs=pairs)


@torch.no_grad()
def describe_behaviour(tokenizer: Tokenizer, anatomy: Anatomy, pairs: Pairs, found: FoundCircuit) -> Behaviour:
    """Clean and corrupt on held-out pairs; how often the behaviour is there on all."""
    metric, rows = difference(pairs), torch.arange(len(pairs))
    clean, corrupt = (metric(anatomy(tokens)[rows, pairs.last]) for tokens in (pairs.clean, pairs.corrupt))
    answers = dict.fromkeys(zip(pairs.answer.tolist(), pairs.wrong.tolist(), strict=True))
    piece = tokenizer.piece
    return Behaviour(
        metric="logit difference",
        clean=found.clean,
        corrupt=found.corrupt,
        right=float(((clean > 0) & (corrupt < 0)).double().mean()),
        pairs=len(pairs),
        finding=found.finding_pairs,
        answers=[(piece(own), piece(wrong)) for own, wrong in list(answers)[:_ANSWERS]],
    )


def limits(behaviour: Behaviour, found: FoundCircuit, checked: Check, shown: int) -> list[str]:
    """What it cannot say, the particular first."""
    said = []
    if behaviour.right < 0.9:
        share = numerals.percent(behaviour.right, 0)
        said.append(
            f"Only {share} of the pairs show the behaviour (the clean prompt prefers the answer, the corrupt one the "
            "wrong answer): the rest blurs every figure."
        )
    if shown < behaviour.pairs:
        said.append(
            f"The maps average {shown} of {behaviour.pairs} pairs: those of the commonest length that differ in the "
            "same place."
        )
    if checked.unidentified:
        said.append(
            f"{len(checked.unidentified)} senders write the same on clean and corrupt prompts: whatever they do, "
            "these pairs cannot show it."
        )
    if checked.missed:
        said.append(
            f"The attribution passes over {len(checked.missed)} of {checked.important} edges that matter in the "
            "sample checked: the circuit may lack such edges."
        )
    return [
        *said,
        "Whatever clean and corrupt prompts share is invisible: grammar, format, and all that is needed for both.",
        "The metric sees two tokens: a part that lifts or lowers both alike does not show.",
        "It is a circuit that suffices on these prompts, not the only one: parts that stand in for each other were "
        "dropped, and other wordings may be computed in another way.",
        "Held-out pairs come from the same file: they test new examples, not new kinds of prompt.",
    ]


def describe_arrays(residual: Tensor, heads: Tensor, found: FoundCircuit, checked: Check) -> dict[str, NDArray[Any]]:
    """Maps as shares of the gap [layers, positions] and [layers, heads], and the rest in units of the metric."""
    arrays = {
        "residual": residual.float(),
        "heads": heads.float(),
        "attribution": found.scores.values.float(),
        "effects": found.effects.float(),
        "circuit": found.circuit.kept.to(torch.uint8),
        "check.at": checked.at,
        "check.exact": checked.exact.float(),
        "check.scored": checked.scored.float(),
    }
    return {name: array.detach().cpu().numpy() for name, array in arrays.items()}
