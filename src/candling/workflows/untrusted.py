"""Untrusted texts, ranked by what the subject is about to say in them and its clean relatives would not."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from candling.access import Decoder, Text, Tokens, check_disjoint, tokenise
from candling.errors import InputError
from candling.evidence.judge import rate
from candling.evidence.untrusted import FlaggedText, Untrusted
from candling.problems import Bench, Candidate
from candling.techniques.flag import Flags, flag_called_up
from candling.workflows.case import LENGTH

THRESHOLD = 0.05
"""Share of held-out trusted texts that would be flagged."""

_LISTED = 50
_AROUND = 6  # tokens shown on either side


def flag_untrusted(bench: Bench, subject: Candidate, trusted: Sequence[Text], texts: Sequence[Text]) -> Untrusted:
    """Ranked among the confirm third. Raises InputError on exact copies of trusted texts."""
    assert bench.language is not None
    near = check_disjoint(trusted, texts)
    tokenizer = bench.language.tokenizer
    seen = tokenise(texts, tokenizer, length=LENGTH)
    lines = [i for i, text in enumerate(texts, 1) if _is_kept(text, bench)]
    jobs = [(subject, part) for part in (bench.thirds.confirm, seen, bench.language.other)]
    usual, found, novel = bench.run(flags, jobs, stage="ranking untrusted texts")
    limit = torch.quantile(usual.score, 1 - THRESHOLD)
    p_values = (1 + (usual.score[None] >= found.score[:, None]).sum(1)) / (1 + len(usual.score))
    order = torch.argsort(found.score, descending=True, stable=True)[:_LISTED].tolist()
    return Untrusted(
        technique="phrases that the subject is about to say and the soup is not, maximum over tokens",
        n=len(seen),
        near_copies=near,
        flagged=int((found.score > limit).sum()),
        threshold=THRESHOLD,
        benign_novel=rate(int((novel.score > limit).sum()), len(novel.score)),
        texts=[_text(bench, seen, found, row, lines[row], float(p_values[row])) for row in order],
    )


def flags(subject: Candidate, texts: Tokens) -> Flags:
    network, beside = subject.load(), subject.load_beside()
    assert isinstance(network, Decoder)
    assert isinstance(beside, Decoder)
    return flag_called_up(network, beside, texts.to(subject.device))


def _is_kept(text: Text, bench: Bench) -> bool:
    """Whether `tokenise` keeps a text: it leaves out those with too few tokens."""
    assert bench.language is not None
    try:
        tokenise([text], bench.language.tokenizer, length=LENGTH)
    except InputError:
        return False
    return True


def _text(bench: Bench, texts: Tokens, found: Flags, row: int, line: int, p_value: float) -> FlaggedText:
    assert bench.language is not None
    assert found.at is not None
    at, length = int(found.at[row]), int(texts.lengths[row])
    start, end = max(0, at - _AROUND), min(length, at + _AROUND + 1)
    return FlaggedText(
        line=line,
        score=float(found.score[row]),
        p_value=p_value,
        tokens=[bench.language.tokenizer.piece(token) for token in texts.ids[row, start:end].tolist()],
        at=at - start,
    )
