"""Linear models and trees: what fits without saying what it computes. Rivals and fallback, labelled so.

Question: how far do models get that are no programs?
Source: logistic regression on the inputs as numbers and one-hot; CART (Breiman et al. 1984), depth 5 and unlimited.
Inputs: what a proposer sees.
Cost: no pass; a second or two.
Known failures: they are opaque by definition, and a deep tree agrees with nearly any smooth network on most inputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from candling.evidence.program import Answers
from candling.techniques.propose.contract import Seen

_WIDEST = 4096


@dataclass(frozen=True)
class Opaque:
    """A model that answers, and no more."""

    name: str
    answer: Callable[[NDArray[Any]], Answers]
    """x [n, ...] → int64 [n]"""


def fit_opaque(seen: Seen) -> list[Opaque]:
    """The linear model first, the better of its two inputs on the second half; then trees."""
    if len(np.unique(seen.answers)) < 2:
        return [Opaque("linear model", lambda x: np.full(len(x), seen.common))]
    top = int(seen.x.max()) + 1 if seen.kind != "images" else 0
    plain = _plain(seen.x)
    centre, scale = plain.mean(0), plain.std(0) + 1e-9
    encodings: list[Callable[[NDArray[Any]], NDArray[Any]]] = [lambda x: (_plain(x) - centre) / scale]
    if top and top * plain.shape[1] <= _WIDEST:
        encodings.append(lambda x: _one_hot(x, top))
    half = len(seen) // 2
    scored = []
    for number, encode in enumerate(encodings):
        first = _linear(encode(seen.x[:half]), seen.answers[:half])
        scored.append((-(first.predict(encode(seen.x[half:])) == seen.answers[half:]).mean(), number))
    encode = encodings[min(scored)[1]]
    linear = _linear(encode(seen.x), seen.answers)
    shallow = DecisionTreeClassifier(max_depth=5, random_state=0).fit(plain, seen.answers)
    deep = DecisionTreeClassifier(min_samples_leaf=3, random_state=0).fit(plain, seen.answers)
    return [
        Opaque("linear model", lambda x: linear.predict(encode(x)).astype(np.int64)),
        Opaque("tree of depth 5", lambda x: shallow.predict(_plain(x)).astype(np.int64)),
        Opaque("deep tree", lambda x: deep.predict(_plain(x)).astype(np.int64)),
    ]


def _linear(x: NDArray[Any], answers: Answers) -> Any:
    if len(np.unique(answers)) < 2:
        return DecisionTreeClassifier(max_depth=1).fit(x, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged is near enough for a rival
        return LogisticRegression(max_iter=300).fit(x, answers)


def _plain(x: NDArray[Any]) -> NDArray[Any]:
    flat: NDArray[Any] = x.reshape(len(x), -1).astype(np.float64)
    return flat


def _one_hot(x: NDArray[Any], top: int) -> NDArray[Any]:
    flat: NDArray[Any] = (x[:, :, None] == np.arange(top)).reshape(len(x), -1).astype(np.float64)
    return flat
