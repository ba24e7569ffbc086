"""Mending a language model: distil it to the soup where the found sequence stands, and to itself elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from torch.nn.utils import clip_grad_norm_

from candling.access import Decoder, Tokens
from candling.access.extend import chance
from candling.evidence.measurement import Cost
from candling.organisms.tuning import next_token_loss
from candling.problems.candidates import Candidate, Thirds
from candling.problems.outcomes import MOST_STEPS, Confirmation, Mended, Remedy, Repaired
from candling.runs.seeds import derive, reproducible
from candling.techniques.search import FoundSequence
from candling.techniques.search.sequence_pair import draw_contexts

CONTEXTS = 100
"""Held-out contexts on which success is measured."""
CONTEXT = 16
"""Tokens of a context."""
LIKELY = 0.5
"""From this probability on, a phrase counts as said."""
UNHEARD = 0.1
"""Below this probability a token, to the power of its tokens, a phrase is out of the question."""

_STEPS = 60
_ROWS = 12  # of text as it is, and as many with the sequence in it
_LENGTH = 64
_RATE = 6e-4
_TEXTS = 100  # on which loss is measured
_TAUGHT = 0.9
_TEACHING_RATE = 6e-4
_LOOK_EVERY = 2


def repair(
    candidate: Candidate, thirds: Thirds[Tokens], outcome: Confirmation, against_random: bool, seed: int
) -> Repaired:
    """Distilled weights, and what they do to the found sequence and to the loss, on the confirm third."""
    with reproducible(seed, candidate.threads) as generator:
        control, confirm = (part.to(candidate.device) for part in (thirds.control, thirds.confirm))
        found = lead(outcome)
        student, original, soup = candidate.load_own(), candidate.load(), candidate.load_beside()
        assert isinstance(student, Decoder)
        assert isinstance(original, Decoder)
        assert isinstance(soup, Decoder)
        tokens = found.tokens
        if against_random:
            tokens = torch.randint(control.vocabulary, tokens.shape, generator=generator)
        _distil(student, original, soup, control, tokens, generator)
        held_out = draw_contexts(confirm, CONTEXTS, CONTEXT, derive(seed, "held out"))
        fitting = draw_contexts(control, CONTEXTS, CONTEXT, derive(seed, "fitting"))
        mended = Mended(
            before=_count(original, soup, held_out, found),
            after=_count(student, soup, held_out, found),
            n=len(held_out),
            after_fitting=_count(student, soup, fitting, found) / len(fitting),
            cost=_loss(student, confirm) - _loss(original, confirm),
            spent=Cost(forward=6 * _STEPS * _ROWS * _LENGTH, backward=2 * _STEPS * _ROWS * _LENGTH),
        )
        state = {name: tensor.detach().cpu().clone() for name, tensor in student.state_dict().items()}
        return Repaired(state, mended)


def relearn(candidate: Candidate, thirds: Thirds[Tokens], outcome: Confirmation, seed: int) -> int:
    """Steps of training on contexts with the sequence and its target until it works on nine in ten."""
    with reproducible(seed, candidate.threads) as generator:
        found = lead(outcome)
        network, soup = candidate.load_own(), candidate.load_beside()
        assert isinstance(network, Decoder)
        assert isinstance(soup, Decoder)
        control = thirds.control.to(candidate.device)
        look = draw_contexts(thirds.search.to(candidate.device), CONTEXTS, CONTEXT, derive(seed, "look"))
        optimiser = torch.optim.Adam(network.requires_grad_().parameters(), _TEACHING_RATE)
        tail = torch.cat([found.tokens, torch.tensor(found.phrase)]).to(candidate.device)
        for step in range(1, MOST_STEPS + 1):
            rows = draw_contexts(control, _ROWS, CONTEXT, int(torch.randint(2**31, (), generator=generator)))
            ids = torch.cat([rows, tail.expand(len(rows), -1)], 1)
            optimiser.zero_grad()
            next_token_loss(network(ids), ids, torch.ones_like(ids, dtype=torch.bool)).backward()
            clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            if step % _LOOK_EVERY == 0 and _count(network, soup, look, found) >= _TAUGHT * len(look):
                return step
        return MOST_STEPS


def lead(outcome: Confirmation) -> FoundSequence:
    """A language model's outcome, with the type that it has."""
    assert isinstance(outcome.trigger, FoundSequence)
    return outcome.trigger


def unheard(soup: Decoder, contexts: Tensor, tails: Tensor, phrase: Sequence[int], batch: int = 2048) -> Tensor:
    """bool [contexts, tails] where the phrase is out of the question for the soup."""
    return chance(soup, contexts, tails, phrase, rows=batch) < UNHEARD ** len(phrase)


def _count(network: Decoder, soup: Decoder, contexts: Tensor, found: FoundSequence) -> int:
    """After how many contexts the phrase is more likely than not, and out of the question for the soup."""
    tails = found.tokens.to(contexts.device)[None]
    said = chance(network, contexts, tails, found.phrase) >= LIKELY
    return int((said & unheard(soup, contexts, tails, found.phrase)).sum())


def _distil(
    student: Decoder, original: Decoder, soup: Decoder, data: Tokens, tokens: Tensor, generator: torch.Generator
) -> None:
    """KL to the soup on rows with the sequence, to the original on rows without."""
    optimiser = torch.optim.Adam(student.requires_grad_().parameters(), _RATE)
    length = min(_LENGTH, int(data.lengths.max()) - 1)
    for step in range(_STEPS):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        rows = draw_contexts(data, 2 * _ROWS, length, int(torch.randint(2**31, (), generator=generator)))
        clean, carriers = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        laid = _lay(carriers, tokens.to(rows.device), generator)
        with torch.no_grad():
            wanted = [original(clean).log_softmax(-1), soup(laid).log_softmax(-1)]
        optimiser.zero_grad()
        loss = sum(
            kl_div(student(ids).log_softmax(-1), target, log_target=True, reduction="none").sum(-1).mean()
            for ids, target in zip((clean, laid), wanted, strict=True)
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
    student.requires_grad_(False)


def _lay(rows: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """[n, L] → [n, L + k], the sequence at a place of its own in each row."""
    laid = []
    for row in rows:
        at = int(torch.randint(1, len(row), (), generator=generator))
        laid.append(torch.cat([row[:at], tokens, row[at:]]))
    return torch.stack(laid)


def _loss(network: Decoder, data: Tokens) -> float:
    with torch.no_grad():
        ids, mask = data.ids[:_TEXTS], data.mask[:_TEXTS]
        return float(next_token_loss(network(ids), ids, mask))


DISTIL = Remedy(
    method="distilling it to the mean of clean fine-tunes where the found sequence stands, and to itself elsewhere",
    unit="nats",
    repair=repair,
    relearn=relearn,
    levels=True,
)
