"""Replay of an explanation: its edges alone again, on the pairs that were not used to find them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from candling.access import LanguageModel
from candling.access.layout import layout_from
from candling.access.pairs import Pairs, PromptPair, halves, read_pairs, tokenise_pairs
from candling.errors import InputError
from candling.evidence.claim import Claim, Replayed
from candling.evidence.control import RunInfo
from candling.runs.jobs import Progress, silent
from candling.runs.seeds import reproducible
from candling.techniques.locate.faithfulness import Judge, difference
from candling.workflows.again import chosen, observe_again
from candling.workflows.audit import Origin
from candling.workflows.chats import chat_pairs
from candling.workflows.explain_parts import parts, salt
from candling.workflows.explain_record import ExplanationRecord
from candling.workflows.inputs import open_language, relocated


def replay_explanation(
    folder: Path,
    *,
    claim: str | None = None,
    model: LanguageModel | None = None,
    pairs: Sequence[PromptPair] | None = None,
    moved: Mapping[str, str] | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Replayed]:
    """The claims of an explanation again, from the edges on record and the inputs that it names by hash."""
    record = ExplanationRecord.read(folder)
    said = record.explanation
    info = relocated(record.info, moved or {}, _FIELDS)
    claims = chosen(said.claims, claim)
    if model is None or pairs is None:
        if info.model == Origin().model:
            raise InputError("replay", "this explanation was made from Python: use candling.replay(model=, pairs=)")
        model = _opened(info)
        pairs, template = read_pairs(info.trusted), info.settings.get("chat_template")
        if template is not None:
            pairs, _, now = chat_pairs(pairs, info.model, model.tokenizer)
            if now != template:
                raise InputError("replay", "the chat template is not the one that the prompts were rendered by")
    given = tokenise_pairs(pairs, model.tokenizer, window=model.window)
    same = (model.model.sha256, model.model.architecture.sha256, given.sha256)

    def observe(each: Claim) -> float:
        if each.kind == "inputs":
            return float(same == (said.weights, said.architecture, said.pairs))
        return _faithfulness(model, given.pairs.to(device), record, device)

    with reproducible(said.seed):
        return observe_again(claims, observe, progress)


_FIELDS = {"model": "model", "weights": "weights", "tokenizer": "tokenizer", "pairs": "trusted"}
"""What a user calls a file, and the record."""


def _opened(info: RunInfo) -> LanguageModel:
    layout = info.settings.get("layout")
    table = None if layout is None else layout_from(str(layout), "run.json: layout")
    dtype = str(info.settings.get("dtype", "float32"))
    return open_language(info.model, info.weights, info.tokenizer, table, dtype)


def _faithfulness(model: LanguageModel, pairs: Pairs, record: ExplanationRecord, device: str) -> float:
    _, held_out = halves(pairs, salt=salt(record.explanation.seed))
    judge = Judge(parts(model, device).anatomy, held_out, difference(held_out))
    if record.kept.shape != judge.graph.edges.shape:
        raise InputError("replay", "the model has other heads than the one that was explained")
    return judge.faithfulness(record.kept[None])[0]
