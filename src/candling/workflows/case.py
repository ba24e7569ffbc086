"""What is audited: the subject and its trusted data, and for a language model the reference beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from candling.access import (
    Dataset,
    LanguageModel,
    Model,
    Text,
    Tokens,
    check_fits,
    load,
    split,
    split_texts,
    tokenise,
)
from candling.errors import InputError
from candling.evidence.verdict import Data
from candling.organisms.other_texts import other_texts
from candling.problems import CLASSIFIER, LANGUAGE, Bench, Kind, Language, Thirds

LENGTH = 256
"""Most tokens of a text that are used."""


@dataclass(frozen=True, eq=False)
class Case:
    """A subject with all that an audit needs to know of it."""

    kind: Kind
    model: Model
    trusted: Dataset | Tokens
    reference: LanguageModel | None = None

    def thirds(self, seed: int) -> Thirds[Any]:
        """The trusted data split by hash. Raises InputError where a third gets nothing."""
        salt = f"audit {seed}"
        if isinstance(self.trusted, Tokens):
            return Thirds(**split_texts(self.trusted, salt=salt))
        return Thirds(**split(self.trusted, salt=salt))

    def bench(self, folder: Path, seed: int, **how: Any) -> Bench:
        """Where the work is done; for a language model, the reference's weights are stored there."""
        bench = Bench(self.kind, self.model.architecture, self.thirds(seed), folder, seed, **how)
        if self.reference is None:
            return bench
        stored, _ = bench.store(self.reference.model.module.state_dict())
        other = tokenise(other_texts(), self.reference.tokenizer, length=LENGTH)
        return replace(bench, language=Language(self.reference.tokenizer, stored.weights, other))

    def describe(self, thirds: Thirds[Any]) -> Data:
        """Counts, for the record."""
        if isinstance(self.trusted, Tokens):
            classes, shape = self.trusted.vocabulary, [self.trusted.ids.shape[1]]
        else:
            classes, shape = self.trusted.classes, list(self.trusted.x.shape[1:])
        return Data(
            control=len(thirds.control),
            search=len(thirds.search),
            confirm=len(thirds.confirm),
            classes=classes,
            input_shape=shape,
        )


def make_case(
    model: Model | nn.Module | LanguageModel,
    trusted: Dataset | Sequence[Text],
    reference: LanguageModel | None = None,
) -> Case:
    """Raises InputError where subject, data and reference do not fit together."""
    if isinstance(model, LanguageModel):
        if reference is None:
            raise InputError("reference", "a language model is audited against the one it was made from: give it")
        if isinstance(trusted, Dataset):
            raise InputError("trusted", "a language model's trusted data are texts, not arrays")
        _check_related(model, reference)
        return Case(LANGUAGE, model.model, tokenise(trusted, model.tokenizer, length=LENGTH), reference)
    if not isinstance(trusted, Dataset):
        raise InputError("trusted", "a classifier's trusted data are arrays with labels, not texts")
    if reference is not None:
        raise InputError("reference", "a classifier has no reference: its controls start afresh")
    model = model if isinstance(model, Model) else load(model)
    return Case(CLASSIFIER, model, replace(trusted, classes=check_fits(trusted, model.module)))


def _check_related(model: LanguageModel, reference: LanguageModel) -> None:
    if model.model.architecture.sha256 != reference.model.architecture.sha256:
        raise InputError("reference", "subject and reference differ in config.json: the reference must be its base")
    if model.tokenizer.json != reference.tokenizer.json:
        raise InputError("reference", "subject and reference have different tokenizers: they cannot be compared")
    if model.model.sha256 == reference.model.sha256:
        raise InputError("reference", "subject and reference have the same weights: there is nothing to compare")
