"""Backdoor: a trigger in the input that sends it to a class of somebody's choosing.

Plants: `organisms.plants.backdoors`. Detect: trigger inversion, all-to-one, all-to-all and source-specific.
Confirm: the recovered trigger on unused inputs against three nulls. Locate: unit ablation.
"""

from __future__ import annotations

from collections.abc import Mapping as Arrays
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from candling.access import Dataset, forward, intervene
from candling.access.hidden import hidden_sites
from candling.evidence.findings import Finding, Located, Where
from candling.evidence.measurement import Cost
from candling.maths.intervals import clopper_pearson
from candling.maths.triggers import Mapping
from candling.organisms.plants import draw_backdoor
from candling.problems.candidates import Candidate, Thirds
from candling.problems.confirming import EXAMPLES, before_and_after, detect_by, finding
from candling.problems.contract import Bench, Problem
from candling.problems.outcomes import Confirmation, Detection, Rival
from candling.problems.unlearning import UNLEARN, lead
from candling.runs.seeds import reproducible
from candling.techniques.locate import AblationScores, rank_units
from candling.techniques.search import FoundTrigger, Part, invert, random_like, random_triggers, refine
from candling.techniques.search.inversion import sweep_passes

MOST_SHIFTS = 20
MOST_PAIRED_CLASSES = 12

_RANDOM_TRIGGERS = 20
_MARGIN = 0.5  # of success, over the best in clean networks; declared before any run
_NULL_ROWS = 400  # held-out rows on which each of some sixty nulls is measured
_LOCATE_ROWS = 256
_LOCATE_SITES = 8
_REMOVED = 0.1  # the effect counts as removed at this share of what it was
_SPARED = 0.03  # accuracy that an ablation may cost
_RANDOM_SETS = 10


def parts(data: Dataset) -> list[Part]:
    """Every class as target in both forms, every label shift, and every ordered pair of classes."""
    k = data.classes
    found = [Part(Mapping(target=t), form) for form in ("patch", "additive") for t in range(k)]
    if k <= MOST_SHIFTS:
        found += [Part(Mapping(shift=s), "patch") for s in range(1, k)]
    if 2 < k <= MOST_PAIRED_CLASSES:
        pairs = [(s, t) for t in range(k) for s in range(k) if s != t]
        found += [Part(Mapping(target=t, source=s), "patch") for s, t in pairs]
    return found


def untested(data: Dataset) -> list[str]:
    left_out = [
        "triggers that are not a fixed change of the input (warps, styles, semantic triggers)",
        "triggers that cover a large part of the input: the doses searched for are in the curve above",
        "anything that the trusted data itself contains",
    ]
    if data.classes > MOST_PAIRED_CLASSES:
        left_out.insert(0, f"source-specific triggers: {data.classes} classes make too many pairs")
    if data.classes > MOST_SHIFTS:
        left_out.insert(0, f"all-to-all triggers: more than {MOST_SHIFTS} classes")
    return left_out


def detect(candidate: Candidate, search: Dataset, wanted: Sequence[Part], seed: int) -> Detection:
    """The search and the baseline on one network, with the seed that every other network gets."""
    searches = partial(invert, batch=candidate.batch), random_triggers
    return detect_by(candidate, search, wanted, seed, searches=searches)


def confirm(
    candidate: Candidate,
    thirds: Thirds[Dataset],
    part: Part,
    start: FoundTrigger,
    negatives: Sequence[Rival],
    seed: int,
) -> Confirmation:
    """The lead's trigger, refined on the search third, put to the test on the confirm third."""
    with reproducible(seed) as generator:
        network, data = candidate.load(), thirds.confirm.to(candidate.device)
        refined = refine(network, thirds.search.to(candidate.device), part, start, seed=seed)
        trigger, size = refined.trigger(0), float(refined.size[0])
        rows = part.mapping.applies(data.y)
        x, wanted = data.x[rows], part.mapping.wanted(data.y[rows], data.classes)
        passes = 0

        def hits(judged: nn.Module, tried: FoundTrigger, most: int | None = _NULL_ROWS) -> int:
            nonlocal passes
            passes += len(wanted[:most])
            changed = tried.to(candidate.device).apply(data, x[:most])
            return int((forward(judged, changed).argmax(-1) == wanted[:most]).sum())

        chance = [hits(network, random_like(trigger, part.form, data, generator)) for _ in range(_RANDOM_TRIGGERS)]
        transfer, own = [0], [0]
        for rival in negatives:
            control = rival.candidate.load()
            transfer.append(hits(control, trigger))
            assert isinstance(rival.trigger, FoundTrigger)
            own.append(hits(control, rival.trigger.scaled(min(1.0, size / rival.size))))
        return Confirmation(
            part=part,
            trigger=trigger,
            size=size,
            hits=hits(network, trigger, None),
            n=len(wanted),
            random=max(chance) / len(wanted[:_NULL_ROWS]),
            random_triggers=_RANDOM_TRIGGERS,
            transfer=max(transfer) / len(wanted[:_NULL_ROWS]),
            best_in_controls=max(own) / len(wanted[:_NULL_ROWS]),
            cost=refined.cost + Cost(forward=passes, backward=0),
        )


def work(data: Dataset, negatives: int) -> Cost:
    """The baseline takes as many passes as search and its gradients."""
    search = sweep_passes(parts(data))
    nulls = (_RANDOM_TRIGGERS + 2 * negatives) * min(_NULL_ROWS, len(data) // 3)
    return Cost(forward=3 * search + nulls, backward=search)


def passes(outcome: Confirmation, clean_excess: float) -> bool:
    """Gate 2: clean networks show nothing near this success, and no random trigger reaches it.

    Their own triggers are compared at the lead's size, so their excess at their own sizes says nothing more.

    A random trigger on a backdoored network may well work in part, so that null takes a lower bound (95 %)
    above it rather than the margin.
    """
    low, _ = clopper_pearson(outcome.hits, outcome.n)
    clean = max(outcome.transfer, outcome.best_in_controls)
    return outcome.success - clean >= _MARGIN and low > outcome.random


def locate(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> Located | None:
    """The fewest units, at one site, whose ablation removes the effect and spares the rest.

    Chosen on the search third, measured on the confirm third; None where no set of at most a quarter of a
    site's units does it.
    """
    with reproducible(seed) as generator:
        network = candidate.load()
        part, trigger = lead(outcome)
        trigger, mapping = trigger.to(candidate.device), part.mapping
        search = _Effect(network, thirds.search.to(candidate.device), trigger, mapping, _LOCATE_ROWS)
        hidden = hidden_sites(network, search.clean, _LOCATE_SITES)
        ranked = rank_units(network, search.clean, search.triggered, hidden, search.pull)
        choice = _smallest_set(search, ranked)
        if choice is None:
            return None
        scores, count = choice
        held_out = _Effect(network, thirds.confirm.to(candidate.device), trigger, mapping, None)
        units, width = scores.order[:count], len(scores.order)
        before, after = held_out.measure(None, None), held_out.measure(scores, units)
        random = [
            held_out.measure(scores, torch.randperm(width, generator=generator)[:count])[0]
            for _ in range(_RANDOM_SETS)
        ]
        return Located(
            site=scores.site,
            units=sorted(units.tolist()),
            site_width=width,
            success_before=before[0],
            success_after=after[0],
            accuracy_before=before[1],
            accuracy_after=after[1],
            random_success_after=sum(random) / len(random),
            random_sets=_RANDOM_SETS,
        )


class _Effect:
    """Success of a trigger and accuracy without it, on one set of rows, under an ablation."""

    def __init__(
        self, network: nn.Module, data: Dataset, trigger: FoundTrigger, mapping: Mapping, most: int | None
    ) -> None:
        rows = torch.nonzero(mapping.applies(data.y)).flatten()[:most]
        self.network, self.clean, self.y = network, data.x[rows], data.y[rows]
        self.triggered = trigger.apply(data, self.clean)
        self.wanted = mapping.wanted(self.y, data.classes)

    def pull(self, logits: torch.Tensor) -> torch.Tensor:
        """How far each row is drawn from its own label to the wanted one, in logits."""
        own, wanted = (logits.gather(1, label[:, None])[:, 0] for label in (self.y, self.wanted))
        return wanted - own

    def measure(self, scores: AblationScores | None, units: torch.Tensor | None) -> tuple[float, float]:
        edits = {} if scores is None or units is None else {scores.site: scores.ablate(units)}
        predicted = [intervene(self.network, x, edits).argmax(-1) for x in (self.triggered, self.clean)]
        right = [p == y for p, y in zip(predicted, (self.wanted, self.y), strict=True)]
        return float(right[0].float().mean()), float(right[1].float().mean())


def _smallest_set(search: _Effect, ranked: Sequence[AblationScores]) -> tuple[AblationScores, int] | None:
    """Site and number of units: the smallest share of a site that removes the effect and spares accuracy."""
    success, accuracy = search.measure(None, None)
    best: tuple[float, AblationScores, int] | None = None
    for scores in ranked:
        width, count = len(scores.order), 1
        while count <= max(1, width // 4) and (best is None or count / width < best[0]):
            after = search.measure(scores, scores.order[:count])
            if after[0] <= _REMOVED * success and after[1] >= accuracy - _SPARED:
                best = (count / width, scores, count)
                break
            count += max(1, count // 3)
    return best and best[1:]


def describe(
    bench: Bench, subject: Candidate, outcome: Confirmation, sizes: list[float], located: Where | None
) -> Finding:
    part, _ = lead(outcome)
    return finding(
        outcome,
        sizes,
        located,
        objective=f"{part.mapping.kind}, {part.form}",
        source="any" if part.mapping.source is None else str(part.mapping.source),
        target=part.mapping.target,
        shift=part.mapping.shift,
    )


def picture(bench: Bench, subject: Candidate, outcome: Confirmation) -> Arrays[str, torch.Tensor]:
    """The subject's best trigger, and what it does to a few held-out inputs."""
    data = bench.thirds.confirm
    _, trigger = lead(outcome)
    examples = _examples(data, outcome)
    shown = before_and_after(subject.load().cpu(), data, examples, trigger.apply(data, examples))
    return {"trigger.mask": trigger.mask, "trigger.shift": trigger.shift, **shown}


def _examples(data: Dataset, outcome: Confirmation) -> torch.Tensor:
    """The first held-out row of each class that the trigger is meant for, six at most."""
    part, _ = lead(outcome)
    rows = torch.nonzero(part.mapping.applies(data.y)).flatten()
    firsts = {int(data.y[row]): int(row) for row in reversed(rows.tolist())}
    chosen = [firsts[label] for label in sorted(firsts)]
    if len(chosen) < EXAMPLES:
        chosen += [row for row in rows.tolist() if row not in chosen][: EXAMPLES - len(chosen)]
    return data.x[torch.tensor(chosen[:EXAMPLES])]


def from_arrays(arrays: Arrays[str, torch.Tensor]) -> FoundTrigger:
    return FoundTrigger(arrays["mask"], arrays["shift"])


BACKDOOR = Problem(
    name="backdoor",
    plant=draw_backdoor,
    parts=parts,
    untested=untested,
    detect=detect,
    confirm=confirm,
    passes=passes,
    locate=locate,
    describe=describe,
    picture=picture,
    trigger=from_arrays,
    baseline="random triggers",
    remedy=UNLEARN,
    work=work,
)
