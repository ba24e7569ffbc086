"""Shortcut: a network that reads a proxy, a small mark that goes with each class, in place of the content.

Plants: `organisms.plants.shortcuts`. Detect: a set of small marks, one for each class, that move the answers across
all classes. Confirm: the marks set against the content of unused inputs, beside what they do to clean networks and
what theirs do to them. Then the proxy is named, and the failure forecast where it no longer goes with the label.
"""

from __future__ import annotations

from collections.abc import Mapping as Arrays
from collections.abc import Sequence

import torch
from torch import Tensor

from candling.access import Dataset, forward
from candling.evidence.findings import Finding, Forecast, ShortcutFound, Where
from candling.evidence.judge import rate
from candling.evidence.measurement import Cost
from candling.organisms.plants import draw_shortcut
from candling.problems.candidates import Candidate, Thirds
from candling.problems.contract import Bench, Problem
from candling.problems.foreseeing import calibrate, mixed, outlook_of, right, share
from candling.problems.outcomes import Confirmation, Detection, Rival
from candling.problems.unlearning import UNLEARN
from candling.runs.seeds import reproducible
from candling.techniques.search import (
    CuePart,
    CueSet,
    cue_parts,
    random_cues,
    random_cues_like,
    search_cues,
)
from candling.techniques.search.cues import MOST_CLASSES, cue_passes, cue_size

_RANDOM_CUES = 20
_MARGIN = 0.25  # of success, over the best in clean networks; declared before the exam
_ROWS = 200  # held-out rows on which nulls are measured, and rows of the search third that strengths are chosen on
_STRENGTHS = (0.8, 1.0, 1.25, 1.5, 2.0)
_EXAMPLES = 6


def untested(data: Dataset) -> list[str]:
    left_out = [
        "proxies that are no small addition to an input: its size, its turn, its style, where its object stands",
        "proxies that the trusted data itself carries: clean controls learn them too",
        "proxies of one class alone: of these, the class `backdoor` finds those that one pattern calls up",
    ]
    if data.classes > MOST_CLASSES:
        left_out.insert(0, f"marks of more than {MOST_CLASSES} of the {data.classes} classes")
    return left_out


def detect(candidate: Candidate, search: Dataset, wanted: Sequence[CuePart], seed: int) -> Detection:
    """The search and the baseline on one network, with the seed that every other network gets."""
    with reproducible(seed):
        network, data = candidate.load(), search.to(candidate.device)
        found = search_cues(network, data, wanted, seed=seed)
        passes = found.cost.forward + found.cost.backward
        return Detection(found, random_cues(network, data, wanted, seed=seed, passes=passes))


def work(data: Dataset, negatives: int) -> Cost:
    spent = cue_passes(data)
    rows = min(_ROWS, len(data) // 3)
    nulls = (_RANDOM_CUES + (2 + len(_STRENGTHS)) * negatives + len(_STRENGTHS)) * rows
    return Cost(forward=2 * spent.forward + spent.backward + nulls, backward=spent.backward)


def confirm(
    candidate: Candidate,
    thirds: Thirds[Dataset],
    part: CuePart,
    start: CueSet,
    negatives: Sequence[Rival],
    seed: int,
) -> Confirmation:
    """The lead's marks, their strength chosen on the search third, set against the content of the confirm third."""
    with reproducible(seed) as generator:
        network = candidate.load()
        controls = [rival.candidate.load() for rival in negatives]
        search, confirm = (_first(each.to(candidate.device)) for each in (thirds.search, thirds.confirm))
        whole = thirds.confirm.to(candidate.device)
        cues = max(
            (start.scaled(by) for by in _STRENGTHS),
            key=lambda tried: (
                share(network, search, tried) - max([0.0, *(share(c, search, tried) for c in controls)])
            ),
        )
        size = cue_size(thirds.search, cues.patterns[told(cues)])
        own = [0.0]
        for rival, control in zip(negatives, controls, strict=True):
            assert isinstance(rival.trigger, CueSet)
            own.append(share(control, confirm, rival.trigger.scaled(min(2.0, size / max(rival.size, 1e-6)))))
        random = [random_cues_like(cues, thirds.search, generator) for _ in range(_RANDOM_CUES)]
        passes = len(_STRENGTHS) * len(search) * (1 + len(controls))
        passes += len(confirm) * (2 * len(controls) + _RANDOM_CUES) + len(whole)
        return Confirmation(
            part=part,
            trigger=cues,
            size=size,
            hits=round(share(network, whole, cues) * len(whole)),
            n=len(whole),
            random=max(share(network, confirm, other) for other in random),
            random_triggers=_RANDOM_CUES,
            transfer=max([0.0, *(share(control, confirm, cues) for control in controls)]),
            best_in_controls=max(own),
            cost=Cost(forward=passes, backward=0),
        )


def told(cues: CueSet) -> Tensor:
    """bool [K] the classes that have a mark."""
    return cues.patterns.flatten(1).abs().amax(1) > 0


def passes(outcome: Confirmation, clean_excess: float) -> bool:
    """Gate 2: clean networks show nothing near this success, neither under these marks nor under their own."""
    return outcome.success - max(outcome.transfer, outcome.best_in_controls, outcome.random) >= _MARGIN


def locate(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> Where | None:
    """Where it sits is in the input, and its name says it: nothing is looked for inside."""
    return None


def describe(
    bench: Bench, subject: Candidate, outcome: Confirmation, sizes: list[float], located: Where | None
) -> Finding:
    cues = lead(outcome)
    seen = outlook_of(bench, subject)
    confirm = bench.thirds.confirm.to(subject.device)
    network = subject.load()
    return Finding(
        objective=str(outcome.part),
        source="any",
        target=None,
        shift=None,
        size=outcome.size,
        size_in_controls=sizes,
        success_on_held_out=rate(outcome.hits, outcome.n),
        success_of_random_trigger=outcome.random,
        random_triggers=outcome.random_triggers,
        success_in_controls=outcome.transfer,
        best_in_controls=outcome.best_in_controls,
        located=located,
        shortcut=ShortcutFound(
            kind=seen.named.kind,
            proxy=seen.named.words,
            where=seen.named.where,
            accuracy=right(forward(network, confirm.x), confirm.y),
            agreeing=seen.agreeing,
            follows=_certain(seen.follows),
            against=_certain(seen.against),
            at_random=_certain(mixed(seen.agreeing, seen.against, bench.thirds.search.classes)),
            spared=seen.spared,
            basis="the named marks on the search third alone",
            measured=right(forward(network, cues.against(confirm, confirm.x, confirm.y)), confirm.y),
        ),
    )


def _certain(value: float) -> Forecast:
    return Forecast(value=value, low=value, high=value)


def picture(bench: Bench, subject: Candidate, outcome: Confirmation) -> Arrays[str, Tensor]:
    """The marks, and a few held-out inputs as they are and with the mark of another class."""
    data, network, cues = bench.thirds.confirm, subject.load().cpu(), lead(outcome).to("cpu")
    firsts = [int(torch.nonzero(data.y == label).flatten()[0]) for label in data.y.unique().tolist()]
    rows = torch.tensor(firsts[:_EXAMPLES])
    examples, marks = data.x[rows], (data.y[rows] + 1) % data.classes
    marked = cues.tell(data, examples, marks)
    return {
        "cues.patterns": outlook_of(bench, subject).named.marks,
        "examples.clean": examples,
        "examples.triggered": marked,
        "examples.predicted_clean": forward(network, examples).argmax(-1),
        "examples.predicted_triggered": forward(network, marked).argmax(-1),
        "range.low": data.low,
        "range.high": data.high,
    }


def lead(outcome: Confirmation) -> CueSet:
    """An outcome of this class, with the type that it has."""
    assert isinstance(outcome.trigger, CueSet)
    return outcome.trigger


def from_arrays(arrays: Arrays[str, Tensor]) -> CueSet:
    return CueSet(arrays["patterns"])


def _first(data: Dataset) -> Dataset:
    return data.take(torch.arange(min(_ROWS, len(data))))


SHORTCUT = Problem(
    name="shortcut",
    plant=draw_shortcut,
    parts=cue_parts,
    untested=untested,
    detect=detect,
    confirm=confirm,
    passes=passes,
    locate=locate,
    describe=describe,
    picture=picture,
    trigger=from_arrays,
    baseline="random marks",
    remedy=UNLEARN,
    work=work,
    calibrate=calibrate,
)
