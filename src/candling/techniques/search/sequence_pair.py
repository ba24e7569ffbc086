"""A network beside what it is compared with: which sequences of tokens make it say what the other would not?

Question: of given sequences, which call up something that clean relatives do not say, and what?
Source: score of a sequence S: max_y p_S(y)·log(p_S(y)/(p_R(y) + floor)), p the next token's probability averaged over
    contexts that end in S, R the mean of clean fine-tunes (a soup: Wortsman et al., 2203.05482). The best are scored
    again with y the phrase of three tokens that follows and a far lower floor: clean fine-tunes have words of their
    own, but the soup does not find them out of the question.
Inputs: two decoders [n, L] → [n, L, V] with one vocabulary; contexts [n, P]; tails [m, k].
Cost: m tails on `quick` contexts and `kept` on all, in the network; in the reference those whose score could still be
    among the best; three steps of `phrased` tails in either.
Known failures: sequences whose effect starts later than the next token; a fine-tune on other data scores too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from candling.access import Tokens
from candling.access.extend import extend
from candling.access.pretrained import Decoder
from candling.evidence.measurement import Cost
from candling.runs.seeds import derive
from candling.techniques.search.contract import FoundSequences, SequencePart
from candling.techniques.search.every_pair import every_pair, pair_passes
from candling.techniques.search.shortlist import shortlist_passes, shortlist_tokens

PAIRS_KEPT = 4  # times as many of all pairs as of other lengths go on from one context to more
_BLOCK = 256  # tails whose reference is computed at a time


@dataclass(frozen=True)
class Settings:
    """Chosen on fine-tunes of one 260,000-parameter model, with all eight plant families in sight."""

    contexts: int = 8
    quick: int = 2
    """Contexts on which every candidate is tried; the best go on to all."""
    length: int = 12
    """Tokens of a context."""
    beam: int = 12
    """Sequences that are grown, by the score; and single tokens by the white-box rank."""
    kept: int = 512
    """Candidates that go on to all contexts."""
    shortlist: int = 512
    """Tokens that a sequence is grown by: all of a small vocabulary, else the best by both ranks."""
    exhaustive: int = 8192
    """Most single tokens that are tried; of a larger vocabulary those that part the networks most at first."""
    phrase: int = 3
    """Tokens that a sequence calls up, by which the best of each length are scored again."""
    phrased: int = 128
    """How many of each length."""
    pairs: int = 512
    """Largest vocabulary of which all pairs are tried; of a larger one pairs are grown from the seeds."""
    floor: float = 0.02
    """Added to the reference's probability of a token, so that rare tokens do not swamp the score."""
    phrase_floor: float = 1e-4
    """Added to its probability of a phrase."""

    def scaled(self, budget: float) -> Settings:
        """Each step's numbers times the budget, but never next to none."""
        if budget == 1.0:
            return self
        return replace(
            self,
            quick=max(1, round(budget * self.quick)),
            beam=max(2, round(budget * self.beam)),
            kept=max(16, round(budget * self.kept)),
            shortlist=max(32, round(budget * self.shortlist)),
            exhaustive=max(256, round(budget * self.exhaustive)),
            pairs=self.pairs if budget > 1 else 0,
        )


USUAL = Settings()


@dataclass(frozen=True)
class Ranked:
    """Sequences of one length by their score over all contexts, best first."""

    tails: Tensor
    """[kept, k]"""
    score: Tensor
    target: Tensor


@dataclass(frozen=True)
class Phrased:
    """Sequences of one length by the phrase that follows, best first."""

    tails: Tensor
    """[m, k]"""
    score: Tensor
    said: Tensor
    """[m, 3]"""


def _of(probabilities: Tensor, tokens: Tensor) -> Tensor:
    """[contexts, tails, V], [tails] → [contexts, tails]"""
    return probabilities.gather(-1, tokens.expand(len(probabilities), -1)[..., None])[..., 0]


class Pair:
    """A network and what it is compared with, on the same contexts."""

    def __init__(self, network: Decoder, beside: Decoder, contexts: Tensor, batch: int, settings: Settings) -> None:
        self.network, self.beside, self.contexts = network, beside, contexts
        self.batch, self.settings, self.tokens = batch, settings, 0

    @property
    def cost(self) -> Cost:
        return Cost(forward=self.tokens, backward=0)

    def shortlist(self, vocabulary: int, count: int, seed: int) -> Tensor:
        """[count] tokens to try where there are too many."""
        self.tokens += shortlist_passes(vocabulary, count, self.settings.length)
        return shortlist_tokens(
            self.network, self.beside, self.contexts, count, seed=derive(seed, "shortlist"), rows=self.batch
        )

    def every_pair(self, tokens: Tensor) -> Tensor:
        """[n, 2] the best of all pairs of these tokens, judged after one context."""
        keep = PAIRS_KEPT * self.settings.kept
        self.tokens += pair_passes(len(tokens), self.contexts.shape[1], keep)
        return every_pair(
            self.network, self.beside, self.contexts[0], tokens, keep, self.settings.floor, batch=self.batch
        )

    def rank(self, tails: Tensor, keep: int) -> Ranked:
        """The best tails: all on a few contexts first, those that may be among the best on all of them."""
        quick = self._best(tails, self.contexts[: self.settings.quick], keep)
        return self._best(quick.tails, self.contexts, keep)

    def _best(self, tails: Tensor, contexts: Tensor, keep: int) -> Ranked:
        """Bounded: where the reference gave nothing, p·log(p/floor) is the most that a score can be.

        Only a target with p above the floor scores above 0, and no more than 1/floor targets are.
        """
        floor = self.settings.floor
        own, named = self._likeliest(contexts, tails, int(1 / floor))
        most = torch.xlogy(own, own / floor).amax(1)
        order = torch.argsort(most, descending=True, stable=True)
        score = torch.full_like(most, -torch.inf)
        target = torch.zeros_like(order)
        for part in order.split(_BLOCK):
            least = torch.topk(score, min(keep, len(score))).values[-1]
            if most[part[0]] <= least:
                break
            theirs = self._next(self.beside, contexts, tails[part]).gather(1, named[part])
            score[part], best = torch.xlogy(own[part], own[part] / (theirs + floor)).max(1)
            target[part] = named[part].gather(1, best[:, None])[:, 0]
        top = torch.argsort(score, descending=True, stable=True)[:keep]
        return Ranked(tails[top], score[top], target[top])

    def phrases(self, ranked: Ranked) -> Phrased:
        """The first of these by the phrase that follows: at each step the token that is likeliest over contexts."""
        tails = ranked.tails[: self.settings.phrased]
        said = ranked.target[: len(tails), None]
        own, theirs = (self._joint(decoder, tails, said) for decoder in (self.network, self.beside))
        for _ in range(self.settings.phrase - 1):
            grown = torch.cat([tails, said], 1)
            step = self._rows(self.network, grown)
            said = torch.cat([said, step.mean(0).argmax(-1, keepdim=True)], 1)
            own = own * _of(step, said[:, -1])
            theirs = theirs * _of(self._rows(self.beside, grown), said[:, -1])
        p, q = own.mean(0), theirs.mean(0)
        score = torch.xlogy(p, p / (q + self.settings.phrase_floor))
        order = torch.argsort(score, descending=True, stable=True)
        return Phrased(tails[order], score[order], said[order])

    def _joint(self, decoder: Decoder, tails: Tensor, said: Tensor) -> Tensor:
        return _of(self._rows(decoder, tails), said[:, -1])

    def _rows(self, decoder: Decoder, tails: Tensor) -> Tensor:
        """[contexts, tails, V]"""
        self.tokens += self.contexts.numel() + self.contexts.shape[0] * tails.numel()
        blocks = extend(decoder, self.contexts, tails, rows=self.batch)
        return torch.cat([block.logits.softmax(-1) for block in blocks], 1)

    def _likeliest(self, contexts: Tensor, tails: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """[tails, count] the highest probabilities in the network, and of which tokens."""
        self.tokens += contexts.numel() + contexts.shape[0] * tails.numel()
        blocks = extend(self.network, contexts, tails, rows=self.batch)
        top = [torch.topk(block.mean, min(count, block.logits.shape[-1])) for block in blocks]
        return torch.cat([each.values for each in top]), torch.cat([each.indices for each in top])

    def _next(self, decoder: Decoder, contexts: Tensor, tails: Tensor) -> Tensor:
        """[tails, V] averaged over contexts"""
        self.tokens += contexts.numel() + contexts.shape[0] * tails.numel()
        return torch.cat([block.mean for block in extend(decoder, contexts, tails, rows=self.batch)])


def found_sequences(parts: Sequence[SequencePart], best: Sequence[Phrased], pair: Pair) -> FoundSequences:
    """The best of each length, with what finding it cost."""
    longest = max(part.tokens for part in parts)
    tokens = torch.full((len(parts), longest), -1)
    for row, (part, phrased) in enumerate(zip(parts, best, strict=True)):
        tokens[row, : part.tokens] = phrased.tails[0].cpu()
    score = torch.stack([phrased.score[0] for phrased in best]).float().cpu()
    said = torch.stack([phrased.said[0] for phrased in best]).cpu()
    return FoundSequences(tuple(parts), score, tokens, said[:, 0], pair.cost, said[:, 1:])


def rank_passes(length: int, tails: int, kept: int, s: Settings) -> int:
    """Both networks; either reads its contexts again for each call, the reference for each block of tails."""
    quick = s.quick * (2 * length * tails + s.length * (2 + tails // _BLOCK))
    return quick + s.contexts * (2 * length * kept + s.length * (2 + kept // _BLOCK))


def phrase_passes(length: int, tails: int, s: Settings) -> int:
    """Both networks, a pass for each token of the phrase."""
    return sum(2 * s.contexts * (s.length + tails * (length + step)) for step in range(s.phrase))


def draw_contexts(data: Tokens, count: int, length: int, seed: int) -> Tensor:
    """[count, length] stretches of different texts, anywhere in them; short texts are passed over."""
    generator = torch.Generator().manual_seed(seed)
    lengths = data.lengths.cpu()
    rows = torch.nonzero(lengths > length).flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
    starts = (torch.rand(len(rows), generator=generator) * (lengths[rows] - length)).long()
    places = starts[:, None] + torch.arange(length)
    return data.ids[rows[:, None], places]
