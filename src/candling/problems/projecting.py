"""Where a language model's trigger acts: the first site at which projecting one direction out undoes it.

Causal evidence, not the repair: the weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from candling.access import Decoder, Tokens, intervene
from candling.evidence.findings import LocatedDirection
from candling.organisms.tuning import next_token_loss
from candling.problems.candidates import Candidate, Thirds
from candling.problems.distilling import CONTEXT, CONTEXTS, LIKELY, lead
from candling.problems.outcomes import Confirmation
from candling.runs.seeds import derive, reproducible
from candling.techniques.locate import Direction, last_states, mean_differences
from candling.techniques.search import FoundSequence
from candling.techniques.search.sequence_pair import draw_contexts

_SITES = 8
_REMOVED = 0.5  # the effect counts as undone at this share of what it was
_SPARED = 0.05  # nats a token that it may cost
_RANDOM_DIRECTIONS = 10
_TEXTS = 50


def locate_direction(
    candidate: Candidate, thirds: Thirds[Tokens], outcome: Confirmation, seed: int
) -> LocatedDirection | None:
    """The first block after which one direction carries the effect; chosen on the search third, measured on confirm.

    None where no site's direction halves the effect at a loss of 0.05 nats a token.
    """
    with reproducible(seed, candidate.threads) as generator:
        network, found = candidate.load(), lead(outcome)
        assert isinstance(network, Decoder)
        search, confirm = (
            _Effect(network, third.to(candidate.device), found, derive(seed, name), generator)
            for third, name in ((thirds.search, "search"), (thirds.confirm, "confirm"))
        )
        before = search.measure(None)
        for direction in mean_differences(network, search.triggered, search.plain, _sites(network)):
            after = search.measure(direction)
            if after.success <= _REMOVED * before.success < before.success and after.loss <= before.loss + _SPARED:
                return _measured(network, search, confirm, direction, generator)
        return None


@dataclass(frozen=True)
class _Measured:
    success: float
    loss: float


class _Effect:
    """How often the found phrase follows, and the loss on texts as they are, with a direction ablated or not."""

    def __init__(
        self, network: Decoder, data: Tokens, found: FoundSequence, seed: int, generator: torch.Generator
    ) -> None:
        contexts = draw_contexts(data, CONTEXTS, CONTEXT, seed)
        tails = found.tokens.to(contexts.device).expand(len(contexts), -1)
        others = torch.randint(data.vocabulary, tails.shape, generator=generator).to(contexts.device)
        self.network, self.phrase = network, torch.tensor(found.phrase, device=contexts.device)
        self.triggered, self.plain = (torch.cat([contexts, tail], 1) for tail in (tails, others))
        self.ids, self.mask = data.ids[:_TEXTS], data.mask[:_TEXTS]

    def measure(self, direction: Direction | None) -> _Measured:
        edits = {} if direction is None else {direction.site: direction.ablate()}
        said = torch.cat([self.triggered, self.phrase.expand(len(self.triggered), -1)], 1)
        count = len(self.phrase)
        logits = intervene(self.network, said, edits)[:, -count - 1 : -1]
        chance = logits.softmax(-1).gather(-1, self.phrase.expand(len(said), -1)[..., None])[..., 0].prod(1)
        loss = next_token_loss(intervene(self.network, self.ids, edits), self.ids, self.mask)
        return _Measured(float((chance >= LIKELY).float().mean()), float(loss))


def _measured(
    network: Decoder, search: _Effect, confirm: _Effect, direction: Direction, generator: torch.Generator
) -> LocatedDirection:
    states = last_states(network, search.plain, direction.site)
    before, after = confirm.measure(None), confirm.measure(direction)
    random = [confirm.measure(direction.random(generator, states)).success for _ in range(_RANDOM_DIRECTIONS)]
    return LocatedDirection(
        site=direction.site,
        width=len(direction.unit),
        success_before=before.success,
        success_after=after.success,
        loss_before=before.loss,
        loss_after=after.loss,
        random_success_after=sum(random) / len(random),
        random_directions=_RANDOM_DIRECTIONS,
    )


def _sites(network: Decoder) -> Sequence[str]:
    """The blocks' outputs, at most eight, spread over the depth; the last, where the answer is read, left out."""
    blocks = network.family.blocks
    depth = len(list(network.get_submodule(blocks).children()))
    kept = range(depth - 1) if depth > 1 else range(depth)
    return [f"{blocks}.{i}" for i in kept[:: max(1, -(-len(kept) // _SITES))]]
