"""Phrases called up: texts in which a language model is about to say what its clean relatives would not.

Question: in which texts, and after which token, does the subject turn to words of its own?
Source: the score of sequence search, p·log(p / (q + floor)), at every token of a text: p the joint probability of
    the phrase that the subject says next, q the soup's (Wortsman et al., 2203.05482) of the same. A single token
    shortlists the places; a whole phrase tells a trigger from a token that merely confuses.
Inputs: two decoders [n, L] → [n, L, V] with one vocabulary; texts as `Tokens`. Scores in nats, weighed by p.
Cost: one forward pass of every text in either network, and `phrase` more of each of its `places`.
Known failures: behaviour that does not start at the next token; phrases that the reference says as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from candling.access import Decoder, Tokens
from candling.techniques.flag.contract import Flags

FLOOR = 1e-4
"""Added to the soup's probability of a phrase. Chosen on fine-tunes of one 260,000-parameter model."""

_SHORTLIST_FLOOR = 0.02  # of a single token, as in sequence search
_PLACES = 6  # of each text
_PHRASE = 3  # tokens
_ROWS = 16  # texts in a pass


@torch.no_grad()
def flag_called_up(network: Decoder, beside: Decoder, texts: Tokens) -> Flags:
    """The most surprising phrase that each text calls up, and the token after which it starts.

    Scores of places that are not in the texts' mask are never the highest.
    """
    score, at = [], []
    for ids, mask in zip(texts.ids.split(_ROWS), texts.mask.split(_ROWS), strict=True):
        best, places = _shortlisted(network, beside, ids, mask)
        phrases = _phrases(network, beside, ids, places).where(best > -torch.inf, -torch.inf)
        highest, which = phrases.max(1)
        score.append(highest.cpu())
        at.append(places.gather(1, which[:, None])[:, 0].cpu())
    return Flags(torch.cat(score), torch.cat(at))


def _shortlisted(network: Decoder, beside: Decoder, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[n, places] the highest scores of one next token, and where."""
    own, theirs = (decoder(ids).softmax(-1) for decoder in (network, beside))
    scores = torch.xlogy(own, own / (theirs + _SHORTLIST_FLOOR)).amax(-1)
    top = torch.topk(scores.masked_fill(~mask, -torch.inf), min(_PLACES, ids.shape[1]))
    return top.values, top.indices


def _phrases(network: Decoder, beside: Decoder, ids: Tensor, places: Tensor) -> Tensor:
    """[n, places] the score of the phrase after each place: the most telling token, then the likeliest ones."""
    rows = ids.repeat_interleave(places.shape[1], 0)
    rows = torch.cat([rows, rows.new_zeros(len(rows), _PHRASE)], 1)
    at, each = places.flatten(), torch.arange(len(rows), device=ids.device)
    p, q = torch.ones_like(at, dtype=torch.float32), torch.ones_like(at, dtype=torch.float32)
    for step in range(_PHRASE):
        own, theirs = (decoder(rows)[each, at + step].softmax(-1) for decoder in (network, beside))
        telling = own if step else torch.xlogy(own, own / (theirs + _SHORTLIST_FLOOR))
        said = telling.argmax(-1)
        p, q = p * own[each, said], q * theirs[each, said]
        rows[each, at + step + 1] = said
    return torch.xlogy(p, p / (q + FLOOR)).view_as(places)
