"""What becomes of a network's answers where its proxy and the content part: forecast before such inputs are seen.

The proxy is named, its marks are set against the content of the search third, and what this says is corrected by what
the same steps, taken blind, missed in planted controls whose true cue is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from candling.access import Dataset, forward
from candling.evidence.control import NetworkRow
from candling.evidence.findings import Finding, Forecast
from candling.problems.bearings import roam, take_bearings
from candling.problems.candidates import Candidate
from candling.problems.contract import Bench
from candling.problems.elicited import mean, right
from candling.problems.proxies import AS_WELL, Named, by_side, name_marks
from candling.runs.seeds import derive, reproducible
from candling.techniques.search import CueSet, cue_parts, search_cues

_FULL = 2.0  # times the size at which half follow: what a network that was trained on the proxy has seen
_ALIKE = 8  # planted controls of one kind, from which on they alone count: the range of fewer is too narrow


@dataclass(frozen=True)
class Outlook:
    """What the proxy, as it is named, does to the search third; shares of the answers."""

    named: Named
    plain: float
    """Right on inputs as they are."""
    agreeing: float
    """Right where the mark says what the content says."""
    follows: float
    """As the mark says, where it says something else: at its full strength, or any mark found, if that does more."""
    spared: float
    """Right, of those that do not follow a mark of the size at which about half do."""
    rehearsed: float | None = None
    """What the cue of a planted control of this kind is measured by, where that is not `follows`."""

    @property
    def against(self) -> float:
        """Right where the mark says something else than the content."""
        return right_against(self.follows, self.spared)


def right_against(follows: float, spared: float) -> float:
    return (1 - follows) * spared


def foresee(candidate: Candidate, search: Dataset, seed: int, lead: str) -> Outlook:
    """Names the proxy of a network in which one was found, and says what it does, on the search third alone.

    lead: see `name_marks`.
    """
    with reproducible(seed) as generator:
        network, data = candidate.load(), search.to(candidate.device)
        every = cue_parts(data)
        parts = [part for part in every if str(part) == lead and part.form.startswith("object")] or every
        found = search_cues(network, data, parts, seed=seed)
        shares = [share(network, data, found.trigger(part)) for part in range(len(found.parts))]
        named = name_marks(search, found, shares, lead)
        if named.kind in ("object", "cell"):
            return _of_object(network, data, named, generator)
        marks = CueSet(named.marks, named.anchor)
        faint = forward(network, marks.against(data, data.x, data.y))
        other = 1 - right(faint, marks.told(data.y))
        return Outlook(
            named=named,
            plain=right(forward(network, data.x), data.y),
            agreeing=right(forward(network, marks.tell(data, data.x, data.y)), data.y),
            follows=max([share(network, data, marks.scaled(_FULL)), *shares]),
            spared=min(1.0, right(faint, data.y) / max(other, 0.01)),
        )


def _of_object(network: nn.Module, data: Dataset, named: Named, generator: torch.Generator) -> Outlook:
    """Marks of other forms may be content. An object may do the same anywhere: then that is what is foreseen."""
    marks = CueSet(named.marks, named.anchor)
    told = marks.told(data.y)
    counts = marks.lies(data, told) & data.wrong(told)
    answers = forward(network, marks.tell(data, data.x, told)).argmax(-1)
    followed, rights = answers == told, ~data.wrong(answers)
    agrees = marks.lies(data, data.y)
    agreeing = ~data.wrong(forward(network, marks.tell(data, data.x, data.y)).argmax(-1))
    still = Outlook(
        named=named,
        plain=mean(~data.wrong(forward(network, data.x).argmax(-1))),
        agreeing=mean(agreeing[agrees]),
        follows=mean(followed[counts]),
        spared=mean(rights[counts & ~followed]),
    )
    if named.anchor < 0:
        return still
    channel = int(torch.nonzero(named.marks)[0, 1])
    bearings = take_bearings(network, data, channel, named.anchor)
    anywhere = roam(network, data, bearings, generator)
    if anywhere.follows < AS_WELL * still.follows:
        return still
    return replace(
        still,
        named=by_side(named, bearings),
        agreeing=anywhere.agreeing,
        follows=anywhere.follows,
        spared=min(1.0, anywhere.right / max(1 - anywhere.follows, 0.01)),
        rehearsed=anywhere.along,
    )


def calibrate(
    bench: Bench, finding: Finding, planted: Sequence[tuple[Candidate, NetworkRow]], statistic: float
) -> Finding:
    """The forecast for the proxy as it is in the world, by what the same forecast said of planted controls.

    How often a control's true cue was followed is on its record; what was forecast, blind, is taken from it. Of all
    whose plant took, found or not, for those that are found follow theirs the most; of those alone whose proxy is of
    the same kind, if there are eight: median and range of these differences.

    statistic: by how much the subject stands out; where that is less than for each of these controls, none is like
    it, and the range reaches down to nothing.
    """
    seen = finding.shortcut
    pairs = [(candidate, row.plant, row.lead) for candidate, row in planted if row.plant and row.plant.took]
    if seen is None or not pairs:
        return finding
    jobs = [(candidate, bench.thirds.search, _seed(bench), lead) for candidate, _, lead in pairs]
    theirs = bench.run(foresee, jobs, stage="forecasting the controls' failure")
    missed = [
        (plant.success - (own.follows if own.rehearsed is None else own.rehearsed), own.named.kind)
        for own, (_, plant, _) in zip(theirs, pairs, strict=True)
    ]
    alike = [difference for difference, kind in missed if kind == seen.kind]
    used = sorted(alike if len(alike) >= _ALIKE else [difference for difference, _ in missed])
    middle = (used[(len(used) - 1) // 2] + used[len(used) // 2]) / 2
    follows = [min(1.0, max(0.0, seen.follows.value + by)) for by in (middle, used[0], used[-1])]
    faint = statistic < min(row.statistic for _, row in planted if row.plant and row.plant.took)
    if faint:
        follows[1] = 0.0
    against = [right_against(each, seen.spared) for each in follows]
    drawn = [mixed(seen.agreeing, each, bench.thirds.search.classes) for each in against]
    basis = (
        f"the named marks on the search third, corrected by what the same forecast missed in {len(used)} planted "
        f"control{'s' if len(used) > 1 else ''}{' with a proxy of this kind' if used == sorted(alike) else ''}: "
        "median and range"
        + ("; it stands out less than each of them, so the range reaches down to nothing" if faint else "")
    )
    update = {
        "follows": Forecast(value=follows[0], low=follows[1], high=follows[2]),
        "against": Forecast(value=against[0], low=against[2], high=against[1]),
        "at_random": Forecast(value=drawn[0], low=drawn[2], high=drawn[1]),
        "basis": basis,
    }
    return finding.model_copy(update={"shortcut": seen.model_copy(update=update)})


def outlook_of(bench: Bench, subject: Candidate, lead: str) -> Outlook:
    jobs = [(subject, bench.thirds.search, _seed(bench), lead)]
    (seen,) = bench.run(foresee, jobs, stage="forecasting the failure")
    return seen


def _seed(bench: Bench) -> int:
    """Another than the search's."""
    return derive(bench.seed, "shortcut", "forecast")


def mixed(agreeing: float, against: float, classes: int) -> float:
    """Right answers where the mark is drawn from all classes alike."""
    return agreeing / classes + against * (1 - 1 / classes)


def followed(network: nn.Module, data: Dataset, cues: CueSet) -> Tensor:
    """bool [m] whether rows with the mark of another class, those that count, are answered as it says."""
    told, counts = set_apart(data, cues)
    answers = forward(network, cues.tell(data, data.x, told)).argmax(-1)
    return (answers == told)[counts]


def share(network: nn.Module, data: Dataset, cues: CueSet) -> float:
    return mean(followed(network, data, cues))


def set_apart(data: Dataset, cues: CueSet) -> tuple[Tensor, Tensor]:
    """Of each row the class [n] whose mark is set against its content, and whether the row counts, bool [n]: the mark
    can lie there (see `CueSet.lies`), and what it says is wrong."""
    told = cues.told(data.y)
    return told, cues.lies(data, told) & data.wrong(told)
