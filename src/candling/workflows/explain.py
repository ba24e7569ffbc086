"""Explain: dissect → pairs → maps by exact patching → circuit → check → record. One way, nothing reaches back."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from candling._version import VERSION
from candling.access import Decoder, LanguageModel
from candling.access.pairs import PromptPair, Tokenised, halves, tokenise_pairs
from candling.errors import InputError
from candling.evidence.claim import Claim
from candling.evidence.control import RunInfo
from candling.evidence.explanation import Explanation
from candling.evidence.measurement import Cost
from candling.runs.fingerprint import fingerprint
from candling.runs.jobs import Progress, silent
from candling.runs.memory import Memory
from candling.runs.record import intact, open_run
from candling.runs.seeds import derive, reproducible
from candling.techniques.locate.check import check, remembered
from candling.techniques.locate.circuit import circuit
from candling.techniques.locate.contract import Scores
from candling.techniques.locate.faithfulness import difference
from candling.workflows.audit import Origin
from candling.workflows.explain_methods import METHODS
from candling.workflows.explain_parts import alike, fresh, parts, salt
from candling.workflows.explain_record import (
    ExplanationRecord,
    describe_arrays,
    describe_behaviour,
    describe_check,
    describe_circuit,
    describe_map,
    describe_places,
    limits,
)


@dataclass(frozen=True)
class Explained:
    """A finished explanation. `folder` holds the same record, if one was asked for."""

    record: ExplanationRecord
    folder: Path | None

    @property
    def explanation(self) -> Explanation:
        return self.record.explanation

    def report(self) -> str:
        """The report as one HTML page."""
        return self.record.page()


def explain(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    *,
    keep: float = 0.9,
    largest: int = 400,
    seed: int = 0,
    out: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    origin: Origin = Origin(trusted="pairs in memory"),  # noqa: B008 -- frozen
) -> Explained:
    """Which parts of a language model compute the difference between clean and corrupt prompts?

    pairs: as `read_pairs` gives them; half of them finds the circuit, the other half tests it. keep: the share of
    the difference that the circuit must keep. largest: edges that are confirmed one by one. out: a folder for the
    record, new or of the same explanation, where what was measured before is not measured again; None keeps it in
    memory.

    Raises InputError where the pairs do not fit the model (`tokenise_pairs`), are fewer than two, or make no
    difference, and where the model's family has no table of its heads.
    """
    started = time.monotonic()
    if not 0 < keep < 1 or largest < 1:
        raise InputError("usage", f"keep {keep:g}, largest {largest}: give a share such as 0.9 and a count from 1")
    given = tokenise_pairs(pairs, model.tokenizer, window=model.window)
    halves(given.pairs, salt=salt(seed))  # too few are refused before anything is written
    settings = Settings(keep, largest, seed, device)
    inputs = {
        f"weights {Path(origin.model).name}": model.model.sha256,
        "architecture": model.model.architecture.sha256,
        f"pairs {Path(origin.trusted).name}": given.sha256,
        "workflow": "explain",
        "layout": fingerprint(model.family.layout),
        "dtype": origin.dtype,
        **{name: str(value) for name, value in vars(settings).items()},
    }
    with open_run(out, inputs) as (folder, ledger):
        if ledger is not None and intact(folder, ledger):
            return Explained(ExplanationRecord.read(folder), out)
        with reproducible(seed):
            explanation, arrays = _run(model, given, settings, Memory(ledger, progress))
            threads = torch.get_num_threads()
        info = RunInfo(
            candling=VERSION,
            model=origin.model,
            weights=origin.weights,
            trusted=origin.trusted,
            tokenizer=origin.tokenizer,
            notes=(*model.notes, *given.notes),
            settings={
                **vars(settings),
                "dtype": origin.dtype,
                "layout": _own_layout(model),
                **({"chat_template": origin.chat_template} if origin.chat_template else {}),
            },
            seconds=round(time.monotonic() - started, 1),
            threads=threads,
            python=platform.python_version(),
            torch=torch.__version__,
        )
        record = ExplanationRecord(explanation, info, arrays)
        if ledger is not None:
            record.write(folder, ledger)
    return Explained(record, out)


def _own_layout(model: LanguageModel) -> str | None:
    """The table of a user's own decoder, so that a replay needs no file for it."""
    return None if isinstance(model.model.module, Decoder) else model.family.layout.json


@dataclass(frozen=True)
class Settings:
    """What decides the results, beside the inputs."""

    keep: float
    largest: int
    seed: int
    device: str


def _run(
    model: LanguageModel, given: Tokenised, settings: Settings, memory: Memory
) -> tuple[Explanation, dict[str, NDArray[Any]]]:
    """All stages, in order."""
    memory.tell("maps", 0, 2)
    device, seed = settings.device, settings.seed
    taken, pairs = parts(model, device), given.pairs.to(device)
    anatomy, shown = taken.anatomy, alike(pairs)
    untrained = fresh(model, device)  # ahead of all that may be remembered: it draws
    residual = memory("map", "residual", Scores, lambda: METHODS.residual(anatomy, shown))
    memory.tell("maps", 1, 2)
    heads = memory("map", "heads", Scores, lambda: METHODS.heads(anatomy, shown))
    memory.tell("maps", 2, 2)
    found = circuit(
        anatomy,
        pairs,
        attribution=METHODS.attribution,
        untrained=untrained,
        keep=settings.keep,
        largest=settings.largest,
        seed=seed,
        memory=memory,
    )
    finding, _ = halves(pairs, salt=salt(seed))
    exactly = remembered(memory, "estimate checked")
    checked = check(found.scores, anatomy, finding, difference(finding), measure=exactly, seed=derive(seed, "check"))
    behaviour = describe_behaviour(model.tokenizer, anatomy, pairs, found)
    explanation = Explanation(
        candling=VERSION,
        weights=model.model.sha256,
        architecture=model.model.architecture.sha256,
        pairs=given.sha256,
        seed=seed,
        difference=taken.difference,
        behaviour=behaviour,
        places=describe_places(shown, model.tokenizer),
        skipped=shown.first,
        maps=[describe_map("residual", residual, len(shown)), describe_map("heads", heads, len(shown))],
        circuit=describe_circuit(found),
        check=describe_check(checked, found.scores),
        cost=found.cost + checked.cost + residual.cost + heads.cost + Cost(forward=2 * len(pairs), backward=0),
        limits=limits(behaviour, found, checked, len(shown)),
        claims=[_inputs_claim(), found.claim],
    )
    columns = slice(shown.first, int(shown.last[0]) + 1)
    return explanation, describe_arrays(residual.share[:, columns], heads.share, found, checked)


def _inputs_claim() -> Claim:
    return Claim(
        id="explain/inputs",
        kind="inputs",
        problem="explain",
        sentence="Weights, architecture and pairs are those that were explained.",
        predicted=1.0,
        tolerance=0.0,
    )
