"""Images: likeness to an exemplar, ink of boxes, symmetries, concepts, and two of them joined.

Question: which program of an image gives these answers?
Source: exhaustion as in `pairs`: every given image as exemplar by dot product, signed dot product, L1, L2 and cosine;
    every box by integral image (Crow 1984); the difference of two boxes by ascent, one box at a time, from the boxes
    that are best alone and those that go best with the answers less some other one.
Inputs: images [n, H, W] (colours are averaged), a pool of exemplars, columns of concepts if there are any, and the
    network's mean gradient, along which the search begins where it is too wide.
Cost: no pass beside the gradient's; five features an exemplar and one a box, on 1,200 inputs.
Known failures: exemplars that are not among the images; several exemplars at once; textures and shapes that no box,
    symmetry or exemplar stands for.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from candling.evidence.program import Feature
from candling.maths.image_scores import inks
from candling.techniques.propose.choosing import choose
from candling.techniques.propose.contract import Grammar, Programs, Seen

_EXEMPLARS, _BOXES, _BEAM_BOXES, _STARTS = 4000, 3000, 1300, 6
_METRICS = ("dot", "signed", "l1", "l2", "cosine")


def propose_images(seen: Seen) -> Programs:
    """Guided by the network's mean gradient where there are more exemplars or boxes than can be tried."""
    boxes = _along(_every_box(*seen.inputs["x"].shape[1:]), seen, _BOXES)

    def grow(feature: Feature, _: Seen) -> list[Feature]:
        return _two_boxes(feature, boxes[:_BEAM_BOXES])

    def start(seen: Seen) -> list[Feature]:
        return _apart(seen, boxes[:_BEAM_BOXES])

    return choose(seen, grammar(seen, boxes), grow=grow, start=start)


def grammar(seen: Seen, boxes: list[tuple[int, ...]]) -> Grammar:
    """What is tried for these images."""
    x, pool = seen.inputs["x"], seen.inputs["e"]
    plain = ["mirror left to right", "mirror top to bottom", "half turn", "energy", "largest pixel"]
    plain += ["steps down", "steps across", "centre across", "centre down", "spread across", "spread down"]
    if x.shape[1] == x.shape[2]:
        plain += ["diagonal", "other diagonal", "quarter turn"]
    rows = [(int(row),) for row in _like(pool, seen, _EXEMPLARS)]
    return {
        **{name: [()] for name in plain},
        **dict.fromkeys(_METRICS, rows),
        "ink": boxes,
        "bright pixels": [(t,) for t in (1, 4, 8, 12)],
        "concept": [(i,) for i in range(seen.inputs["c"].shape[1])],
    }


def _every_box(height: int, width: int) -> list[tuple[int, ...]]:
    """(top, bottom, left, right), on a grid of at most twelve places to a side."""
    downs, acrosses = (
        np.unique(np.linspace(0, size, min(size, 12) + 1).round().astype(int)) for size in (height, width)
    )
    rows = [(int(i), int(j)) for i, j in product(downs, repeat=2) if i < j]
    columns = [(int(k), int(m)) for k, m in product(acrosses, repeat=2) if k < m]
    return [(*row, *column) for row, column in product(rows, columns)]


def _along(boxes: list[tuple[int, ...]], seen: Seen, most: int) -> list[tuple[int, ...]]:
    """Those through which most of the mean gradient passes for their size, if there are too many."""
    if len(boxes) <= most or seen.direction is None:
        return boxes[:: max(1, -(-len(boxes) // most))]
    total = np.zeros(tuple(side + 1 for side in seen.direction.shape))
    total[1:, 1:] = seen.direction.cumsum(0).cumsum(1)
    top, bottom, left, right = np.array(boxes).T
    through = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    worth = np.abs(through) / np.sqrt((bottom - top) * (right - left))
    return [boxes[place] for place in np.argsort(-worth, kind="stable")[:most]]


def _like(pool: NDArray[np.float64], seen: Seen, most: int) -> NDArray[np.intp]:
    """Rows of the exemplars that lie most along the gradient, either way, if there are too many."""
    if len(pool) <= most:
        return np.arange(len(pool))
    if seen.direction is None:
        return np.linspace(0, len(pool) - 1, most).astype(np.intp)
    flat = (pool - pool.mean(0)).reshape(len(pool), -1)
    cosine = flat @ seen.direction.ravel() / (np.linalg.norm(flat, axis=1) + 1e-12)
    return np.argsort(-np.abs(cosine), kind="stable")[:most]


def _apart(seen: Seen, boxes: list[tuple[int, ...]]) -> list[Feature]:
    """Boxes whose ink, less that of some other box, goes most with the answers: of all pairs, by correlation."""
    ink = inks(seen.inputs, boxes)
    ink = ink - ink.mean(1, keepdims=True)
    answers = seen.answers - seen.answers.mean()
    along, between = ink @ answers, ink @ ink.T
    spread = np.diag(between)[:, None] + np.diag(between)[None] - 2 * between
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.abs(along[:, None] - along[None]) / np.sqrt(spread)
    share[(spread <= 1e-9 * spread.max()) | ~np.isfinite(share)] = 0
    best = np.argsort(-share.max(1), kind="stable")[:_STARTS]
    return [Feature(kind="images", formula="ink", params=boxes[place]) for place in best]


def _two_boxes(feature: Feature, boxes: list[tuple[int, ...]]) -> list[Feature]:
    """A box less each other one; of two boxes, either exchanged for each other one."""
    if feature.formula == "ink":
        pairs = [(*feature.params, *box) for box in boxes]
    elif feature.formula == "ink less ink":
        first, second = feature.params[:4], feature.params[4:]
        pairs = [(*first, *box) for box in boxes] + [(*box, *second) for box in boxes]
    else:
        return []
    return [Feature(kind="images", formula="ink less ink", params=pair) for pair in pairs if pair[:4] != pair[4:]]
