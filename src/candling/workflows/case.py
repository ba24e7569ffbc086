"""What is audited: the subject and its trusted data, and for a language model the reference beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from candling.access import (
    Dataset,
    Decoder,
    LanguageModel,
    Model,
    Text,
    Tokens,
    banded,
    check_disjoint,
    check_fits,
    check_inputs,
    check_legitimate,
    load,
    lowrank,
    split,
    split_texts,
    tokenise,
)
from candling.errors import InputError
from candling.evidence.verdict import Data
from candling.organisms.other_texts import other_texts
from candling.problems import LANGUAGE, SENSORS, Bench, Kind, Language, Problem, Thirds, kind_for
from candling.runs.fingerprint import fingerprint

LENGTH = 256
"""Most tokens of a text that are used."""

LARGE = 20_000_000
"""Parameters of a reference above which controls are adapters to it, unless the user says otherwise."""

CONTROLS_AS = ("auto", "full", "lora")
LEAST_BUDGET = 0.01
ADAPTERS = f"LoRA adapters of rank {lowrank.RANK} on the linear maps of the reference's blocks"


@dataclass(frozen=True)
class Effort:
    """How much work an audit of a language model is, and what its controls are."""

    budget: float = 1.0
    """Share of the usual work."""
    lowrank: bool = False
    """Controls are adapters to the reference rather than whole networks."""

    def settings(self) -> dict[str, str | float]:
        """For the record; `with_effort` reads them back."""
        return {"budget": self.budget, "controls_as": "lora" if self.lowrank else "full"}


@dataclass(frozen=True, eq=False)
class Case:
    """A subject with all that an audit needs to know of it."""

    kind: Kind
    model: Model
    trusted: Dataset | Tokens
    reference: LanguageModel | None = None
    texts: tuple[Text, ...] = ()
    """The trusted texts as they were given."""
    untrusted: tuple[Text, ...] = ()
    """Texts to rank; none for a classifier."""
    inputs: Tensor | None = None
    """Untrusted inputs of a classifier [m, ...]."""
    legitimate: Tensor | None = None
    """Cells of an input that the network may read, by its user's word: bool [*input]."""
    notes: tuple[str, ...] = ()
    """What was dropped or passed over when the inputs were opened."""
    effort: Effort = Effort()
    chat: str | None = None
    """SHA-256 of the chat template that the texts were rendered by, if they were."""

    @property
    def untrusted_sha256(self) -> str | None:
        """Of a classifier's untrusted inputs and legitimate cells, if there are any."""
        return None if self.inputs is None else fingerprint([self.inputs, self.legitimate])

    def thirds(self, seed: int) -> Thirds[Any]:
        """The trusted data split by hash. Raises InputError where a third gets nothing."""
        salt = f"audit {seed}"
        if isinstance(self.trusted, Tokens):
            return Thirds(**split_texts(self.trusted, salt=salt))
        return Thirds(**split(self.trusted, salt=salt))

    def bench(self, folder: Path, seed: int, **how: Any) -> Bench:
        """Where the work is done; for a language model, the reference's weights are stored there."""
        how["budget"] = self.effort.budget
        bench = Bench(self.kind, self.model.architecture, self.thirds(seed), folder, seed, **how)
        if self.reference is None:
            return bench
        module = self.reference.model.module
        stored, _ = bench.store(module.state_dict())
        other = tokenise(other_texts(), self.reference.tokenizer, length=LENGTH)
        language = Language(self.reference.tokenizer, stored.weights, other, lowrank=self.effort.lowrank)
        if self.effort.lowrank and torch.device(bench.device).type == "cpu" and isinstance(module, Decoder):
            lowrank.share(module, stored.weights, bench.device)
        return replace(bench, language=language)

    def with_effort(self, budget: float, controls_as: str) -> Case:
        """So much work, and such controls; `auto` takes adapters where the reference is large.

        Raises InputError for values that are none, for a classifier, and where peft is needed and absent.
        """
        if controls_as not in CONTROLS_AS:
            raise InputError("usage", f"controls as {controls_as!r}: choose from {', '.join(CONTROLS_AS)}")
        if not LEAST_BUDGET <= budget <= 1 / LEAST_BUDGET:
            raise InputError("usage", f"a budget of {budget:g}: give a share of the usual work, such as 0.25")
        if self.reference is None:
            if budget != 1.0 or controls_as == "lora":
                raise InputError("usage", "budget and adapters as controls are for language models")
            return self
        large = sum(p.numel() for p in self.reference.model.module.parameters()) > LARGE
        as_adapters = controls_as == "lora" or (controls_as == "auto" and large)
        if as_adapters:
            lowrank.check_installed()
        kind = replace(self.kind, recipe=f"{ADAPTERS}; {self.kind.recipe}") if as_adapters else self.kind
        return replace(self, kind=kind, effort=Effort(budget, as_adapters))

    def describe(self, thirds: Thirds[Any]) -> Data:
        """Counts, for the record."""
        told: dict[str, Any]
        if isinstance(self.trusted, Tokens):
            told = {"classes": self.trusted.vocabulary, "input_shape": [self.trusted.ids.shape[1]]}
        else:
            told = {"classes": self.trusted.classes, "input_shape": list(self.trusted.x.shape[1:])}
            told |= {"bands": self.trusted.names, "measure": self.trusted.task.measure_name}
        return Data(control=len(thirds.control), search=len(thirds.search), confirm=len(thirds.confirm), **told)


def make_case(
    model: Model | nn.Module | LanguageModel,
    trusted: Dataset | Sequence[Text],
    reference: LanguageModel | None = None,
    untrusted: Sequence[Text] | Tensor = (),
    legitimate: Any = None,
) -> Case:
    """Raises InputError where subject, data and reference do not fit together."""
    if isinstance(model, LanguageModel):
        if legitimate is not None:
            raise InputError("legitimate", "legitimate cells are of a classifier's inputs")
        if reference is None:
            raise InputError("reference", "a language model is audited against the one it was made from: give it")
        if isinstance(trusted, Dataset):
            raise InputError("trusted", "a language model's trusted data are texts, not arrays")
        if isinstance(untrusted, Tensor):
            raise InputError("untrusted", "a language model's untrusted data are texts, not arrays")
        _check_related(model, reference)
        check_disjoint(trusted, untrusted)
        rows = tokenise(trusted, model.tokenizer, length=LENGTH)
        notes = [
            f"{name}: {note}" for name, lm in (("subject", model), ("reference", reference)) for note in lm.notes
        ]
        return Case(LANGUAGE, model.model, rows, reference, tuple(trusted), tuple(untrusted), notes=tuple(notes))
    if not isinstance(trusted, Dataset):
        raise InputError("trusted", "a classifier's trusted data are arrays with labels, not texts")
    if not isinstance(untrusted, Tensor) and len(untrusted):
        raise InputError("untrusted", "a classifier's untrusted data are arrays like the trusted ones, not texts")
    if reference is not None:
        raise InputError("reference", "a classifier has no reference: its controls start afresh")
    model = model if isinstance(model, Model) else load(model)
    trusted = replace(trusted, classes=check_fits(trusted, model.module))
    kind = kind_for(trusted.task)
    if trusted.task.bands is not None:
        if isinstance(untrusted, Tensor):
            raise InputError(
                "untrusted", "untrusted inputs are judged by classes, y holds real numbers: leave them out"
            )
        model = banded(model, trusted.task.bands)
    inputs = check_inputs(untrusted, trusted) if isinstance(untrusted, Tensor) else None
    if trusted.sensors is not None:
        if inputs is not None or legitimate is not None:
            what = "untrusted inputs of a network that foretells sensors are not grouped"
            raise InputError("untrusted", f"{what}: `flag_tampering` ranks them, see docs/tampering.md")
        return Case(SENSORS, model, trusted)
    if legitimate is None:
        return Case(kind, model, trusted, inputs=inputs)
    if inputs is None:
        raise InputError("legitimate", "legitimate cells are of untrusted inputs: give these too")
    return Case(kind, model, trusted, inputs=inputs, legitimate=check_legitimate(legitimate, trusted.x.shape[1:]))


def _check_related(model: LanguageModel, reference: LanguageModel) -> None:
    if model.model.architecture.sha256 != reference.model.architecture.sha256:
        raise InputError("reference", "subject and reference differ in config.json: the reference must be its base")
    if model.tokenizer.json != reference.tokenizer.json:
        raise InputError("reference", "subject and reference have different tokenizers: they cannot be compared")
    if model.model.sha256 == reference.model.sha256:
        raise InputError("reference", "subject and reference have the same weights: there is nothing to compare")


_ELSEWHERE = {
    "tampering": "it is for networks that foretell sensors, with y [n, sensors], see docs/tampering.md",
}
"""Classes that an audit does not take, and why."""


def named(kind: Kind, problems: Sequence[str]) -> list[Problem]:
    """The classes of these names. Raises InputError for one that the kind does not have, or that comes twice."""
    for name in problems:
        if name not in kind.problems:
            choice = ", ".join(kind.problems)
            if name in _ELSEWHERE:
                raise InputError(
                    "problem", f"{name!r} is no class for a {kind.name}: {_ELSEWHERE[name]}; choose from {choice}"
                )
            raise InputError("problem", f"no problem class {name!r} for a {kind.name}: choose from {choice}")
    if len(set(problems)) < len(problems):
        raise InputError("problem", f"a problem class is named twice in {','.join(problems)}: name each once")
    return [kind.problems[name] for name in problems]


def effort_of(bench: Bench) -> dict[str, str | float]:
    """For the record of a language model: its effort, and what a control takes on disk, in MB."""
    if bench.language is None:
        return {}
    sizes = [path.stat().st_size for path in (bench.folder / "networks").glob("*.safetensors")]
    effort = Effort(bench.budget, bench.language.lowrank)
    return {**effort.settings(), "control_megabytes": round(min(sizes) / 1e6, 3)}
