"""Sequence search: which few tokens make a language model say what its clean relatives would not?

Question: is there a trigger, and what does it call up?
Source: a beam over appended tokens. Score of a sequence S: max_y p_S(y)·log(p_S(y)/(p_R(y) + floor)), p the next
    token's probability averaged over contexts that end in S, R the mean of clean fine-tunes (a soup: Wortsman et
    al., 2203.05482). The best are scored again with y the phrase of three tokens that follows and a far lower floor:
    clean fine-tunes have words of their own, but the soup does not find them out of the question. All pairs are tried
    where the vocabulary is small; else seeds are grown, chosen by that score and by a white-box rank: Mahalanobis
    distance of the difference of residual states (Lee et al., 1807.03888, on differences) and KL of the next token.
Inputs: two decoders [n, L] → [n, L, V] with one vocabulary; texts as `Tokens`; lengths to report.
Cost: for each length about 2·beam·min(V, shortlist) tails on `quick` contexts and `kept` on all, in either network;
    pairs: V² on one context in the network alone for V up to `pairs`; single tokens: all V, or the
    `exhaustive` that `shortlist` chooses.
Known failures: triggers of more tokens than are searched that do nothing in part; a fine-tune on other data
    has learned sequences of its own, so a score means nothing without clean fine-tunes beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from candling.access import Tokens
from candling.access.extend import extend, extend_both
from candling.access.observe import observe
from candling.access.pretrained import Decoder
from candling.evidence.measurement import Cost
from candling.maths.spread import Spread
from candling.runs.seeds import derive
from candling.techniques.search.contract import FoundSequences, SequencePart
from candling.techniques.search.every_pair import every_pair, pair_passes
from candling.techniques.search.shortlist import shortlist_passes, shortlist_tokens


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


_PAIRS_KEPT = 4  # times as many of all pairs as of other lengths go on from one context to more
_SITES = 6  # blocks whose states are compared, spread over the depth
_TRUSTED_ROWS = 32
_BLOCK = 256  # tails whose reference is computed at a time
_TRUSTED_LENGTH = 64


def search_sequences(
    network: Decoder,
    beside: Decoder,
    data: Tokens,
    parts: Sequence[SequencePart],
    *,
    seed: int,
    batch: int = 2048,
    settings: Settings = Settings(),
) -> FoundSequences:
    """The best-scoring sequence of each length in `parts`, which count up from one token.

    Every network sees the same contexts for the same seed. batch: most rows in one pass.
    """
    pair = Pair(network, beside, draw_contexts(data, settings.contexts, settings.length, seed), batch, settings)
    usual = _usual_differences(pair, data)
    tried = torch.arange(data.vocabulary, device=data.ids.device)
    if data.vocabulary > settings.exhaustive:
        tried = pair.shortlist(data.vocabulary, settings.exhaustive, seed)
    single = pair.rank(tried[:, None], settings.kept)
    best = [pair.phrases(single)]
    inside = unusual_tokens(pair, tried, usual)
    grown_by = _grown_by(single, inside, settings.shortlist)
    seeds = torch.cat([best[0].tails[: settings.beam], inside[: settings.beam, None]])
    for length in range(2, len(parts) + 1):
        exhaust = length == 2 and data.vocabulary <= settings.pairs
        tails = pair.every_pair(tried) if exhaust else grow(seeds, grown_by)
        best.append(pair.phrases(pair.rank(tails, settings.kept)))
        seeds = best[-1].tails[: settings.beam]
    return _found(parts, best, pair)


def sequence_passes(vocabulary: int, longest: int, settings: Settings = Settings()) -> int:
    """Tokens that `search_sequences` puts through both networks, at most."""
    s = settings
    singles, grown_by = min(vocabulary, s.exhaustive), min(vocabulary, s.shortlist)
    exhaust = longest > 1 and vocabulary <= s.pairs
    pairs = min(vocabulary**2, _PAIRS_KEPT * s.kept) if exhaust else 4 * s.beam * grown_by
    candidates = [singles, pairs, *[2 * s.beam * grown_by] * (longest - 2)][:longest]
    ranked = sum(_rank_passes(i + 1, n, min(n, s.kept), s) for i, n in enumerate(candidates))
    phrased = sum(_phrase_passes(i + 1, min(n, s.kept, s.phrased), s) for i, n in enumerate(candidates))
    first = 0 if singles == vocabulary else shortlist_passes(vocabulary, singles, s.length)
    inside = s.quick * (singles + s.length) + _TRUSTED_ROWS * _TRUSTED_LENGTH
    exhausted = pair_passes(vocabulary, s.length, _PAIRS_KEPT * s.kept) if exhaust else 0
    return ranked + phrased + 2 * inside + first + exhausted


def _rank_passes(length: int, tails: int, kept: int, s: Settings) -> int:
    """Both networks; either reads its contexts again for each call, the reference for each block of tails."""
    quick = s.quick * (2 * length * tails + s.length * (2 + tails // _BLOCK))
    return quick + s.contexts * (2 * length * kept + s.length * (2 + kept // _BLOCK))


def _phrase_passes(length: int, tails: int, s: Settings) -> int:
    return sum(2 * s.contexts * (s.length + tails * (length + step)) for step in range(s.phrase))


def random_sequences(
    network: Decoder,
    beside: Decoder,
    data: Tokens,
    parts: Sequence[SequencePart],
    *,
    seed: int,
    passes: int,
    batch: int = 2048,
    settings: Settings = Settings(),
) -> FoundSequences:
    """The black-box baseline: the best of as many random sequences of each length as `passes` tokens allow."""
    generator = torch.Generator().manual_seed(seed)
    tries, kept = _affordable(passes, parts, settings)
    settings = replace(settings, kept=kept)
    pair = Pair(network, beside, draw_contexts(data, settings.contexts, settings.length, seed), batch, settings)
    best = []
    for part in parts:
        tails = torch.randint(data.vocabulary, (tries, part.tokens), generator=generator)
        best.append(pair.rank(torch.unique(tails, dim=0).to(data.ids.device), settings.kept))
    return _found(parts, [pair.phrases(each) for each in best], pair)


def _affordable(passes: int, parts: Sequence[SequencePart], s: Settings) -> tuple[int, int]:
    """Random sequences of each length, and how many of them go on to all contexts, that `passes` tokens pay for."""

    def price(tries: int, kept: int) -> int:
        ranked = sum(_rank_passes(part.tokens, tries, kept, s) for part in parts)
        return ranked + sum(_phrase_passes(part.tokens, min(kept, s.phrased), s) for part in parts)

    kept = s.kept
    while kept > 1 and price(kept, kept) > passes:
        kept //= 2
    tries = kept
    while price(2 * tries, kept) <= passes:
        tries *= 2
    step = tries
    while step > 1:
        step //= 2
        tries += step if price(tries + step, kept) <= passes else 0
    return tries, kept


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
        keep = _PAIRS_KEPT * self.settings.kept
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


def draw_contexts(data: Tokens, count: int, length: int, seed: int) -> Tensor:
    """[count, length] stretches of different texts, anywhere in them; short texts are passed over."""
    generator = torch.Generator().manual_seed(seed)
    lengths = data.lengths.cpu()
    rows = torch.nonzero(lengths > length).flatten()
    rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
    starts = (torch.rand(len(rows), generator=generator) * (lengths[rows] - length)).long()
    places = starts[:, None] + torch.arange(length)
    return data.ids[rows[:, None], places]


def grow(seeds: Tensor, tokens: Tensor) -> Tensor:
    """[n, k] → every different sequence with one of `tokens` in front of or behind a seed: [m, k + 1]"""
    before = torch.cat([tokens.repeat(len(seeds))[:, None], seeds.repeat_interleave(len(tokens), 0)], 1)
    behind = torch.cat([seeds.repeat_interleave(len(tokens), 0), tokens.repeat(len(seeds))[:, None]], 1)
    grown: Tensor = torch.unique(torch.cat([before, behind]), dim=0)
    return grown


def unusual_tokens(pair: Pair, tried: Tensor, usual: Mapping[str, Spread]) -> Tensor:
    """[n] the tokens `tried`, the most unusual first: by the ranks of Mahalanobis distance and of KL, added up."""
    contexts = pair.contexts[: pair.settings.quick]
    distance, divergence = [], []
    both = pair.network, pair.beside
    for ours, beside in extend_both(both, contexts, tried[:, None], sites=list(usual), rows=pair.batch):
        far = [spread.distance(ours.states[s] - beside.states[s]).mean(0) for s, spread in usual.items()]
        distance.append(torch.stack(far).sum(0))
        p, q = (block.logits.log_softmax(-1) for block in (ours, beside))
        divergence.append((p.exp() * (p - q)).sum(-1).mean(0))
    pair.tokens += 2 * (contexts.numel() + len(contexts) * len(tried))
    ranks = [torch.argsort(torch.argsort(torch.cat(values), stable=True)) for values in (distance, divergence)]
    return tried[torch.argsort(ranks[0] + ranks[1], descending=True, stable=True)]


def _usual_differences(pair: Pair, data: Tokens) -> dict[str, Spread]:
    """Of the residual states on trusted text, at blocks spread over the depth."""
    blocks = pair.network.family.blocks
    depth = len(list(pair.network.get_submodule(blocks).children()))
    sites = [f"{blocks}.{i}" for i in range(0, depth, max(1, -(-depth // _SITES)))]
    ids, mask = (t[:_TRUSTED_ROWS, :_TRUSTED_LENGTH] for t in (data.ids, data.mask))
    own, theirs = (observe(d, ids, sites).activations for d in (pair.network, pair.beside))
    pair.tokens += 2 * ids.numel()
    return {site: Spread.of((own[site] - theirs[site])[mask]) for site in sites}


def _grown_by(single: Ranked, inside: Tensor, most: int) -> Tensor:
    """Sorted: all tokens that were tried, or the best by both ranks."""
    if len(inside) <= most:
        return inside.sort().values
    chosen = torch.cat([single.tails[: most // 2, 0], inside[: most - most // 2]])
    different: Tensor = torch.unique(chosen)
    return different


def _found(parts: Sequence[SequencePart], best: Sequence[Phrased], pair: Pair) -> FoundSequences:
    longest = max(part.tokens for part in parts)
    tokens = torch.full((len(parts), longest), -1)
    for row, (part, phrased) in enumerate(zip(parts, best, strict=True)):
        tokens[row, : part.tokens] = phrased.tails[0].cpu()
    score = torch.stack([phrased.score[0] for phrased in best]).float().cpu()
    said = torch.stack([phrased.said[0] for phrased in best]).cpu()
    return FoundSequences(tuple(parts), score, tokens, said[:, 0], pair.cost, said[:, 1:])


__all__ = ["Settings", "draw_contexts", "random_sequences", "search_sequences"]
