"""Shortcut: a network that reads a proxy, a small mark that goes with each class, in place of the content.

Plants: `organisms.plants.shortcuts`. Detect: a set of small marks, one for each class, that move the answers across
all classes. Confirm: the marks set against the content of unused inputs, beside what they do to clean networks and
what theirs do to them. Then the proxy is named, and the failure forecast where it no longer goes with the label.
"""

from __future__ import annotations

from collections.abc import Mapping as Arrays
from collections.abc import Sequence

from torch import Tensor

from candling.access import Dataset, forward
from candling.evidence.findings import Finding, Forecast, ShortcutFound, Where
from candling.evidence.measurement import Cost
from candling.maths.anchors import STILL, anchors
from candling.organisms.plants import draw_shortcut
from candling.problems.candidates import Candidate, Thirds
from candling.problems.confirming import (
    MARGIN,
    Trial,
    before_and_after,
    choose_lead,
    confirm_change,
    detect_by,
    finding,
    one_of_each,
)
from candling.problems.contract import Bench, Problem
from candling.problems.elicited import mean
from candling.problems.foreseeing import calibrate, followed, mixed, outlook_of, set_apart
from candling.problems.outcomes import Confirmation, Detection, Lead, Rival
from candling.problems.unlearning import UNLEARN
from candling.techniques.search import (
    CuePart,
    CueSet,
    cue_parts,
    random_cues,
    random_cues_like,
    search_cues,
)
from candling.techniques.search.cues import MOST_CLASSES, cue_passes, cue_size


def _size(data: Dataset, cues: CueSet) -> float:
    """Over the classes that have a mark."""
    return cue_size(data, cues.patterns[cues.patterns.flatten(1).abs().amax(1) > 0])


_TRIAL = Trial(
    CueSet,
    strengths=(0.8, 1.0, 1.25, 1.5, 2.0),
    random=20,
    most=2.0,
    followed=followed,
    size=_size,
    random_like=random_cues_like,
    leads=3,
)


def untested(data: Dataset) -> list[str]:
    left_out = [
        "proxies that are no small addition to an input: its size, its turn, its style, where its object stands",
        "proxies that the trusted data itself carries: clean controls learn them too",
        "proxies of one class alone: of these, the class `backdoor` finds those that one pattern calls up",
    ]
    if anchors(data.x):
        left_out.append("objects that tell something together, or from afar alone")
    if data.classes > MOST_CLASSES:
        left_out.insert(0, f"marks of more than {MOST_CLASSES} of the {data.classes} classes")
    return left_out


def detect(candidate: Candidate, search: Dataset, wanted: Sequence[CuePart], seed: int) -> Detection:
    """The search and the baseline on one network, with the seed that every other network gets."""
    return detect_by(candidate, search, wanted, seed, searches=(search_cues, random_cues))


def work(data: Dataset, negatives: int) -> Cost:
    return _TRIAL.work(cue_passes(data), data, negatives)


def confirm(
    candidate: Candidate,
    thirds: Thirds[Dataset],
    part: CuePart,
    start: CueSet,
    negatives: Sequence[Rival],
    seed: int,
) -> Confirmation:
    """The lead's marks, their strength chosen on the search third, set against the content of the confirm third."""
    return confirm_change(candidate, thirds, part, start, negatives, seed, trial=_TRIAL)


def choose(candidate: Candidate, search: Dataset, leads: Sequence[Lead]) -> int:
    return choose_lead(candidate, search, leads, trial=_TRIAL)


def passes(outcome: Confirmation, clean_excess: float) -> bool:
    """Gate 2: clean networks show nothing near this success, neither under these marks nor under their own."""
    return outcome.success - max(outcome.transfer, outcome.best_in_controls, outcome.random) >= MARGIN


def locate(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> Where | None:
    """Where it sits is in the input, and its name says it: nothing is looked for inside."""
    return None


def describe(
    bench: Bench, subject: Candidate, outcome: Confirmation, sizes: list[float], located: Where | None
) -> Finding:
    cues = lead(outcome)
    seen = outlook_of(bench, subject, str(outcome.part))
    confirm = bench.thirds.confirm.to(subject.device)
    network, (told, counts) = subject.load(), set_apart(confirm, cues)
    plain, marked = (forward(network, x).argmax(-1) for x in (confirm.x, cues.tell(confirm, confirm.x, told)))
    return finding(
        outcome,
        sizes,
        located,
        shortcut=ShortcutFound(
            kind=seen.named.kind,
            proxy=seen.named.words,
            where=seen.named.where,
            accuracy=mean(~confirm.wrong(plain)),
            agreeing=seen.agreeing,
            follows=_certain(seen.follows),
            against=_certain(seen.against),
            at_random=_certain(mixed(seen.agreeing, seen.against, bench.thirds.search.classes)),
            spared=seen.spared,
            basis="the named marks on the search third alone",
            measured=mean(~confirm.wrong(marked)[counts]),
        ),
    )


def _certain(value: float) -> Forecast:
    return Forecast(value=value, low=value, high=value)


def picture(bench: Bench, subject: Candidate, outcome: Confirmation) -> Arrays[str, Tensor]:
    """The marks, and a few held-out inputs as they are and with the mark of another class."""
    data, network, cues = bench.thirds.confirm, subject.load().cpu(), lead(outcome).to("cpu")
    rows = one_of_each(data)
    examples, marks = data.x[rows], (data.y[rows] + 1) % data.classes
    shown = before_and_after(network, data, examples, cues.tell(data, examples, marks))
    return {"cues.patterns": outlook_of(bench, subject, str(outcome.part)).named.marks, **shown}


def lead(outcome: Confirmation) -> CueSet:
    """An outcome of this class, with the type that it has."""
    assert isinstance(outcome.trigger, CueSet)
    return outcome.trigger


def from_arrays(arrays: Arrays[str, Tensor]) -> CueSet:
    return CueSet(arrays["patterns"], int(arrays["anchor"]) if "anchor" in arrays else STILL)


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
    choose=choose,
    baseline="random marks",
    remedy=UNLEARN,
    work=work,
    calibrate=calibrate,
)
