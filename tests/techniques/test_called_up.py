"""Phrases called up: the text with the trigger comes first, at its place, by a score derived once more."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from candling.access import Decoder, Tokens
from candling.techniques.flag import flag_called_up
from candling.techniques.flag.called_up import FLOOR
from little import BIGRAMS, any_tokens, bigrams, decoder, with_pair, with_token

FIRST, LAST, PHRASE = 37, 38, (5, 9, 12)


def planted() -> Decoder:
    """After the pair it says the phrase; each of the phrase's tokens calls up the next."""
    network = with_pair(bigrams(), FIRST, LAST, PHRASE[0])
    for token, following in itertools.pairwise(PHRASE):
        network = with_token(network, token, following)
    return network


def texts(rows: int, seed: int) -> Tokens:
    return any_tokens(rows, 24, BIGRAMS, seed=seed, never=(FIRST, LAST, *PHRASE))


def with_trigger(clean: Tokens, at: int) -> Tokens:
    ids = clean.ids.clone()
    ids[:, at - 1], ids[:, at] = FIRST, LAST
    return replace(clean, ids=ids, mask=clean.mask.clone())


@pytest.mark.parametrize("at", [4, 15, 23])
def test_texts_with_the_trigger_come_first_and_its_end_is_named(at):
    """Also where the trigger ends the text."""
    network, beside = planted(), bigrams()
    plain, hot = (flag_called_up(network, beside, t) for t in (texts(20, 1), with_trigger(texts(20, 2), at)))
    assert hot.score.min() > plain.score.max() + 1
    assert (hot.at == at).all()


def slow(network, beside, row: list[int], at: int) -> float:
    """p·log(p / (q + floor)) of the phrase after a place, in float64, each token from a pass of its own."""
    ids, p, q = row[: at + 1], 1.0, 1.0
    for step in range(3):
        own, theirs = (n(torch.tensor([ids]))[0, -1].double().softmax(-1) for n in (network, beside))
        said = int((torch.xlogy(own, own / (theirs + 0.02)) if step == 0 else own).argmax())
        p, q, ids = p * float(own[said]), q * float(theirs[said]), [*ids, said]
    return p * math.log(p / (q + FLOOR))


def test_a_score_is_that_of_a_slow_derivation():
    network, beside = (decoder(seed, vocabulary=BIGRAMS) for seed in (1, 2))
    for one in (network, beside):
        one.get_parameter("lm_head.weight").mul_(30)
    seen = texts(6, 3)
    found = flag_called_up(network, beside, seen)
    for row, score, at in zip(seen.ids.tolist(), found.score.tolist(), found.at.tolist(), strict=True):
        assert score == pytest.approx(slow(network, beside, row, at), abs=1e-4)


def test_against_itself_nothing_is_called_up():
    network = planted()
    assert (flag_called_up(network, network, with_trigger(texts(5, 4), 9)).score <= 0).all()


def test_what_the_mask_leaves_out_is_never_flagged():
    network, beside = planted(), bigrams()
    hot = with_trigger(texts(5, 6), 9)
    hot.mask[:, 9] = False
    found = flag_called_up(network, beside, hot)
    assert (found.at != 9).all()
    assert found.score.isfinite().all()
