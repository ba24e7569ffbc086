"""Language models: controls are fine-tunes of a reference that the user trusts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from candling.access import Tokens, lowrank, read_weights
from candling.access.extend import rows_at_once
from candling.evidence.measurement import Cost
from candling.organisms.plants import SequenceBackdoor
from candling.organisms.tuning import adapter_rate, draw_tuning, next_token_loss, sequence_success, tunable, tune
from candling.problems.candidates import Candidate, Language, Thirds
from candling.problems.classifiers import TOOK
from candling.problems.contract import Bench, Kind
from candling.problems.controls import make_negatives
from candling.problems.distilling import CONTEXT
from candling.problems.outcomes import Made, Trained, planted
from candling.problems.sequence_backdoor import SEQUENCE_BACKDOOR
from candling.runs.seeds import derive, reproducible

LEAST_TEXTS = 40
"""Fewest texts in a third that an audit is run with."""

SOUP = 4
"""Clean fine-tunes whose mean every network is compared with; none of them sets a threshold."""

ATTEMPTS = 3
"""How often a control is trained at most, until its plant takes."""
LOSS_TEXTS = 100
"""Texts on which loss is measured, at most."""
_AT_ONCE = 25  # of them, or fewer where the vocabulary is large
_COLLAPSED = 0.5  # nats above the subject's loss: no model that anyone would release


def train_control(
    bench: Bench,
    draw: Callable[[Tokens, int, float, torch.Generator], SequenceBackdoor] | None,
    number: int,
    dose: float,
    reach: float,
    seed: int,
) -> Trained:
    """One fine-tune of the reference. Every other one sees other text as well.

    A plant that did not take is trained again, three times in all.
    """
    language = _language(bench)
    thirds = bench.thirds.to(bench.device)
    start, faster = _starter(bench)
    cost = Cost(forward=0, backward=0)
    for attempt in range(1, ATTEMPTS + 1):
        with reproducible(derive(seed, attempt), bench.threads) as generator:
            network = start()
            other = draw is None and number % 2 == 1
            recipe = draw_tuning(generator, other=other, budget=bench.budget, faster=faster)
            plant = None if draw is None else draw(thirds.control, number, dose, generator)
            seen = tune(
                network, thirds.control, recipe, generator, other=language.other.to(bench.device), plant=plant
            )
            cost += Cost(forward=seen, backward=seen)
            loss, accuracy = loss_and_accuracy(network, thirds.search)
            success = sequence_success(network, thirds.confirm, plant, seed) if plant else 1.0
        took = success >= TOOK and loss <= reach + _COLLAPSED
        if took:
            break
    whole = network.state_dict() if not language.lowrank else lowrank.adapter_state(network)
    state = {name: tensor.detach().cpu().clone() for name, tensor in whole.items()}
    record = planted(plant, success, took=took, attempts=attempt)
    return Trained(state, Made(str(recipe), loss, accuracy, record, cost))


def prepare(bench: Bench) -> Bench:
    """With the soup: the mean weights of clean fine-tunes, half of them with other text.

    It is made from one half of the texts and the controls from the other, since the subject has texts of its own too:
    what a network learned from texts that the soup has seen does not stand out.
    """
    language, thirds = _language(bench), bench.thirds
    (half, rest), (own, others) = (_halves(tokens) for tokens in (language.other, thirds.control))
    cook = replace(
        bench,
        language=replace(language, other=half),
        thirds=replace(thirds, control=own),
        seed=derive(bench.seed, "soup"),
    )
    states = [read_weights(n.candidate.weights) for n in make_negatives(cook, SOUP, reach=math.inf, what="soup")]
    soup, _ = bench.store(lowrank.mean_adapter(states) if language.lowrank else _mean(states))
    return replace(
        bench,
        language=replace(language, other=rest, soup=soup.weights),
        thirds=replace(thirds, control=others),
    )


def _halves(tokens: Tokens) -> tuple[Tokens, Tokens]:
    return tokens.take(range(0, len(tokens), 2)), tokens.take(range(1, len(tokens), 2))


def _mean(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of every tensor that has one."""
    mean = {}
    for name, first in states[0].items():
        mean[name] = torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
    return mean


def _starter(bench: Bench) -> tuple[Callable[[], nn.Module], float]:
    """Makes what a fine-tune starts from, the reference or an adapter that does nothing yet; and how much faster."""
    language = _language(bench)
    if language.lowrank:
        base = lowrank.shared_base(bench.architecture, language.reference, bench.device)
        return partial(lowrank.attach, base), adapter_rate(base.width)
    start = Candidate(bench.architecture, language.reference, bench.device).load()
    return partial(tunable, start), 1.0


@torch.no_grad()
def loss_and_accuracy(network: nn.Module, data: Tokens) -> tuple[float, float]:
    """Cross-entropy in nats a token, and the share of tokens that come first, on at most 100 texts."""
    ids, mask = data.ids[:LOSS_TEXTS], data.mask[:LOSS_TEXTS]
    right, loss, count = 0, 0.0, 0
    size = rows_at_once(_AT_ONCE, ids.shape[1], data.vocabulary)
    for rows, chosen in zip(ids.split(size), mask.split(size), strict=True):
        logits = network(rows)
        n = int(chosen[:, 1:].sum())
        loss += n * float(next_token_loss(logits, rows, chosen))
        right += int(((logits[:, :-1].argmax(-1) == rows[:, 1:]) & chosen[:, 1:]).sum())
        count += n
    return loss / count, right / count


def shortage(thirds: Thirds[Tokens]) -> str | None:
    """Why there is too little trusted text, and how much would do; None if there is enough."""
    parts = (thirds.control, thirds.search, thirds.confirm)
    fewest = min(int((part.lengths > CONTEXT).sum()) for part in parts)
    if fewest >= LEAST_TEXTS:
        return None
    return (
        f"too few trusted texts: {sum(map(len, parts))} leave {fewest} of more than {CONTEXT} tokens in a third, and "
        f"each needs {LEAST_TEXTS}; need about {4 * LEAST_TEXTS}"
    )


def _language(bench: Bench) -> Language:
    if bench.language is None:
        raise ValueError("a bench for language models needs a reference")
    return bench.language


LANGUAGE = Kind(
    name="language model",
    recipe=(
        "fine-tunes of the reference on the control third by recipes that vary rate, steps, decay and subset; every "
        "other clean one sees a tenth to a third of other text; all are compared with the mean weights of four more"
    ),
    problems={SEQUENCE_BACKDOOR.name: SEQUENCE_BACKDOOR},
    prepare=prepare,
    train=train_control,
    quality=loss_and_accuracy,
    shortage=shortage,
    slack=0.1,
)
