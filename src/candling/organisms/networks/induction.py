"""Induction, `... A B ... A` → `B`: two layers written by hand, with decoys; and a transformer that learns it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from candling.access import Blueprint, Decoder
from candling.access.anatomy import Anatomy, Norm
from candling.access.pairs import Pairs
from candling.access.wording import bad_input, listed
from candling.organisms.networks.gates import (
    Head,
    KnownCircuit,
    attention,
    block,
    edges,
    last_of,
    noised,
    subspaces,
    wire,
)
from candling.runs.seeds import reproducible

TOKENS, LENGTH = 18, 12
TEMPERATURE = 8.0
CHANGES = ("first", "answer", "last")
_UNUSED, _SHARP = 16, 20.0


def induction(
    sharpness: float = 40.0,
    *,
    noise: float = 0.01,
    seed: int = 0,
    changed: Collection[str] = CHANGES,
    broken: bool = False,
) -> KnownCircuit:
    """A previous-token head whose output an induction head reads by its keys; three decoys beside each of the two.

    sharpness: the scale of the scores in the second layer, 2 (blurred) to 40 (saturated); the first looks at
    positions, which no prompt changes. noise: standard deviation on every weight. changed: which tokens of
    `A B ... A` the corrupt prompt replaces: `first` (the first A), `answer` (B), `last` (the second A).
    broken: the second A becomes a token that stands nowhere else, so that the corrupt prompt `C D ... E` has no
    answer, and the wrong token stands in neither. Else it is C again, and D is the wrong token: keys and queries that
    move together still match halfway, and attention to a value halfway to D lowers the metric.
    81 edges, 7 of them true; the two by which the previous-token head finds its position never vary. Raises
    InputError where `changed` names anything else or nothing.
    """
    if not changed or not set(changed) <= set(CHANGES):
        raise bad_input("changed", f"the corrupt prompt can change {listed(list(CHANGES))}, at least one of them")
    generator = torch.Generator().manual_seed(seed)
    place, width = subspaces(token=TOKENS, position=LENGTH, previous=TOKENS, out=TOKENS, unused=_UNUSED)
    embedding, positions = torch.zeros(TOKENS, width), torch.zeros(LENGTH, width)
    embedding[:, place["token"]] = torch.eye(TOKENS)
    positions[:, place["position"]] = torch.eye(LENGTH)
    unembedding = torch.zeros(TOKENS, width)
    unembedding[:, place["out"]] = TEMPERATURE * torch.eye(TOKENS)
    ideal = Anatomy(
        embedding=embedding,
        blocks=tuple(
            block(attention(*heads, scale=scale))
            for heads, scale in ((_first_layer(place, width), _SHARP), (_second_layer(place, width), sharpness))
        ),
        final_norm=Norm(),
        unembedding=unembedding,
        positions=positions,
    )
    return KnownCircuit(
        name=f"induction, sharpness {sharpness:g}",
        anatomy=noised(ideal, noise, generator),
        ideal=ideal,
        truth=edges(ideal, TRUE_EDGES),
        draw=partial(_pairs, changed=frozenset(changed), broken=broken),
        uses=_uses,
    )


_PREVIOUS, _INDUCTION = "blocks.0.attn.head_{}.1", "blocks.1.attn.head_{}.2"
TRUE_EDGES = (
    ("embed", _PREVIOUS.format("q_in")),
    ("embed", _PREVIOUS.format("k_in")),
    ("embed", _PREVIOUS.format("v_in")),
    ("embed", _INDUCTION.format("q_in")),
    (_PREVIOUS.format("out"), _INDUCTION.format("k_in")),
    ("embed", _INDUCTION.format("v_in")),
    (_INDUCTION.format("out"), "logits"),
)


def _first_layer(place: Mapping[str, slice], width: int) -> tuple[Head, ...]:
    def read(name: str, shift: int = 0) -> Tensor:
        return wire(place[name], TOKENS, width, shift=shift)

    previous = Head(read("position"), read("position", 1), read("token"), read("previous"))
    own = replace(previous, key=read("position"), output=read("unused"))  # the token itself, for nobody
    spread = replace(previous, query=0 * read("position"), output=0 * read("unused"))  # the average token, dropped
    again = replace(previous, output=read("unused"))  # the previous token once more, for nobody
    return own, previous, spread, again


def _second_layer(place: Mapping[str, slice], width: int) -> tuple[Head, ...]:
    def read(name: str, shift: int = 0) -> Tensor:
        return wire(place[name], TOKENS, width, shift=shift)

    true = Head(read("token"), read("previous"), read("token"), read("out"))
    again = replace(true, output=read("unused"))  # finds B as well, and tells nobody
    same = replace(true, key=read("token"), output=read("unused"))  # attends to equal tokens
    silent = replace(true, query=read("position"), key=read("position"), output=0 * read("out"))
    return same, again, true, silent


def _pairs(n: int, generator: torch.Generator, *, changed: frozenset[str], broken: bool) -> Pairs:
    """Tokens all unlike but for the second A, which comes last.

    The first A is not the first token, which has no previous one and takes itself for it.
    """
    drawn = torch.rand(n, TOKENS, generator=generator).argsort(-1)
    first, answer, other, new, last, wrong = drawn[:, :6].unbind(1)
    if not broken:
        last, wrong = other, new
    rows, at = torch.arange(n), torch.randint(1, LENGTH - 2, (n,), generator=generator)
    clean = drawn[:, 6 : 6 + LENGTH].clone()
    clean[rows, at], clean[rows, at + 1], clean[:, -1] = first, answer, first
    corrupt = clean.clone()
    for name, place, token in (("first", at, other), ("answer", at + 1, new), ("last", -1, last)):
        if name in changed:
            corrupt[rows, place] = token
    return Pairs(clean, corrupt, answer, wrong, torch.full((n,), LENGTH - 1))


def _uses(pairs: Pairs) -> dict[str, Tensor]:
    last = last_of(pairs)
    first = (pairs.clean == pairs.clean[:, -1:]) & ~last
    answer = first.roll(1, -1)
    return {
        _PREVIOUS.format("q_in"): answer,
        _PREVIOUS.format("k_in"): first,
        _PREVIOUS.format("v_in"): first,
        _INDUCTION.format("q_in"): last,
        _INDUCTION.format("k_in"): answer,
        _INDUCTION.format("v_in"): answer,
        "logits": last,
    }


VOCABULARY, REPEATED, PERIODS = 20, 20, (4, 9)
"""Tokens; length of a training row; shortest and longest stretch that is repeated in it."""
_BATCH, _RATE, _WARM = 64, 4e-3, 40


def train_induction(seed: int, *, steps: int = 800, width: int = 64, heads: int = 4) -> Decoder:
    """A two-layer transformer of GPT-2's shape, trained until it continues what is repeated.

    Rows repeat random tokens, all unlike, with a period drawn anew for each, so that no position gives the answer
    away. The same for one seed; leaves the global generator as it was.
    """
    with reproducible(seed) as generator:
        decoder = _small_gpt2(width, heads)
        optimiser = torch.optim.AdamW(decoder.parameters(), _RATE, betas=(0.9, 0.98), weight_decay=0.01)
        for step in range(steps):
            tokens, periods = repeated(_BATCH, generator)
            for group in optimiser.param_groups:
                group["lr"] = _RATE * min(1.0, (step + 1) / _WARM) * (1 - step / steps)
            optimiser.zero_grad()
            chosen = predictable(tokens, periods)
            cross_entropy(decoder(tokens)[:, :-1][chosen], tokens[:, 1:][chosen]).backward()
            clip_grad_norm_(decoder.parameters(), 1.0)
            optimiser.step()
    return decoder.requires_grad_(False)


def _small_gpt2(width: int, heads: int) -> Decoder:
    """Without dropout; its MLPs are as narrow as the residual stream."""
    settings = {
        "model_type": "gpt2",
        "vocab_size": VOCABULARY,
        "n_positions": REPEATED,
        "n_embd": width,
        "n_inner": width,
        "n_layer": 2,
        "n_head": heads,
        "initializer_range": width**-0.5,
    }
    return Blueprint(json.dumps(settings | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)))()


def repeated(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens int64 [n, REPEATED] and the period of each row [n]."""
    drawn = torch.rand(n, VOCABULARY, generator=generator).argsort(-1)
    periods = torch.randint(PERIODS[0], PERIODS[1] + 1, (n,), generator=generator)
    return drawn.gather(1, torch.arange(REPEATED) % periods[:, None]), periods


def predictable(tokens: Tensor, periods: Tensor) -> Tensor:
    """bool [n, L - 1]: at which positions does the next token follow from what was said?"""
    return torch.arange(tokens.shape[1] - 1) >= periods[:, None]


@torch.no_grad()
def repeat_accuracy(decoder: Decoder, tokens: Tensor, periods: Tensor) -> float:
    """Share of the predictable tokens that are predicted."""
    right = decoder(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    return float(right[predictable(tokens, periods)].float().mean())


def repeat_pairs(n: int, generator: torch.Generator) -> Pairs:
    """Prompts for a trained network that end at the second A; the corrupt one has C D for A B, and ends in C."""
    drawn = torch.rand(n, VOCABULARY, generator=generator).argsort(-1)
    periods = torch.randint(PERIODS[0], PERIODS[1] + 1, (n,), generator=generator)
    clean = drawn.gather(1, torch.arange(REPEATED) % periods[:, None])
    other, wrong = drawn[:, -2:].unbind(1)  # beyond the longest period: nowhere in the prompt
    rows, first = torch.arange(n), (torch.rand(n, generator=generator) * (periods - 1)).long()
    last = first + periods
    corrupt = clean.clone()
    corrupt[rows, first], corrupt[rows, first + 1], corrupt[rows, last] = other, wrong, other
    return Pairs(clean, corrupt, clean[rows, first + 1], wrong, last)
