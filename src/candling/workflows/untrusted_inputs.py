"""Untrusted inputs of a classifier: which stand out, which together, and by which mechanism they are answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from candling.access import Dataset, forward
from candling.access.hidden import hidden_sites
from candling.evidence.claim import Claim
from candling.evidence.judge import rate
from candling.evidence.measurement import Cost, Rate
from candling.evidence.untrusted import Calibration, ClassCount, FlaggedInputs, Group
from candling.problems import Bench, Candidate
from candling.problems.mechanism import (
    CONFINED,
    GENERALISED,
    OTHER,
    Judge,
    Taught,
    left_out,
    lessons,
    look_at,
    teach_control,
)
from candling.runs.seeds import derive, reproducible
from candling.techniques.cards import best_detector
from candling.techniques.flag import confidence, flag_inputs, states_of

THRESHOLD = 0.05
"""Share of held-out trusted inputs that would be flagged."""

LESSONS = lessons(3, disguised=2)
"""What the controls are taught: each of thirteen lessons to three of them, and each cue in disguise to two."""

_SITES = 6
_LEAST = 8  # inputs of a group
_MOST_GROUPS = 4
_APART = 0.25  # silhouette from which flagged inputs count as more than one group
_LISTED = 1000
_SHOWN = 8


@dataclass(frozen=True)
class JudgedInputs:
    """What the record holds of them."""

    flagged: FlaggedInputs
    groups: list[Group]
    arrays: Mapping[str, NDArray[Any]]
    cost: Cost

    def with_claims(self, claims: list[Claim]) -> JudgedInputs:
        return replace(self, flagged=self.flagged.model_copy(update={"claims": claims}))


def teach_bank(bench: Bench) -> list[Taught]:
    """Controls of the subject's architecture with known lessons; they depend on the trusted data alone."""
    seed = derive(bench.seed, "untrusted")
    jobs: list[tuple[Any, ...]] = [(bench, *lesson, derive(seed, "lesson", i)) for i, lesson in enumerate(LESSONS)]
    return bench.run(teach_control, jobs, stage="training controls with lessons")


def judge_untrusted(
    bench: Bench,
    subject: Candidate,
    inputs: Tensor,
    legitimate: Tensor | None = None,
    *,
    bank: Callable[[Bench], list[Taught]] = teach_bank,
) -> JudgedInputs:
    """Flagged against the search third, grouped, and each group judged by controls, made if there is one.

    legitimate: bool [*input], the cells that the user says the network may read, if any: a group whose answers come
    from these alone counts as generalised, whatever the controls say.
    """
    seed = derive(bench.seed, "untrusted")
    (found,) = bench.run(flag_job, [(subject, bench.thirds.search, inputs, seed)], stage="ranking untrusted inputs")
    groups = [rows for rows in found.groups if len(rows) >= _LEAST]
    cost = found.cost
    calibration, judged = None, []
    if groups:
        controls = bank(bench)
        cost = sum((each.cost for each in controls), cost)
        jobs = [
            (subject, bench.thirds.search, inputs[rows], legitimate, derive(seed, "group", i))
            for i, rows in enumerate(groups)
        ]
        looks = bench.run(look_at, jobs, stage="judging groups")
        judge, baseline = Judge(controls), Judge(controls, "parts")
        for rows, look in zip(groups, looks, strict=True):
            answer, cost = judge(look), cost + look.cost
            decided = look.stay is not None and look.stay >= CONFINED and answer.answer != GENERALISED
            logits = found.logits[rows]
            counts = torch.bincount(logits.argmax(-1)).tolist()
            judged.append(
                Group.model_validate(
                    {
                        "inputs": rows[:_LISTED],
                        "n": len(rows),
                        "answer": GENERALISED if decided else answer.answer,
                        "p": answer.p["cheat"],
                        "p_generalised": answer.p["honest"],
                        "p_new": answer.p["novel"],
                        "reuse": look.reuse,
                        "baseline_p": baseline(look).p["cheat"],
                        "predicted": [ClassCount(label=k, n=n) for k, n in enumerate(counts) if n],
                        "confidence": float(logits.softmax(-1).amax(-1).mean()),
                        "stay": look.stay,
                        "judged": answer.answer if decided else None,
                    }
                )
            )
        calibration = calibrate(controls)
    shown = [inputs[rows[:_SHOWN]].numpy() for rows in groups]
    return JudgedInputs(
        FlaggedInputs(
            technique=f"{best_detector().name} over layers, the detector with the best card",
            n=len(inputs),
            near_copies=found.near_copies,
            flagged=found.flagged,
            threshold=THRESHOLD,
            by_confidence=found.by_confidence,
            calibration=calibration,
        ),
        judged,
        {f"groups.{i}": examples for i, examples in enumerate(shown)},
        cost,
    )


@dataclass(frozen=True)
class Ranked:
    """What one pass over the untrusted inputs gives."""

    groups: list[list[int]]
    """Rows, the most unusual first."""
    flagged: int
    by_confidence: int
    near_copies: int
    logits: Tensor
    cost: Cost


def flag_job(subject: Candidate, trusted: Dataset, inputs: Tensor, seed: int) -> Ranked:
    """Inputs above all but a twentieth of the trusted ones that the detector was not fitted on."""
    with reproducible(seed):
        network, known = subject.load(), trusted.x
        sites = hidden_sites(network, known, _SITES)
        detector = best_detector()
        usual, found = flag_inputs(network, known, inputs, detector.fit, sites, attributions=detector.attributions)
        plain, unsure = flag_inputs(network, known, inputs, confidence, sites)
        above = found.score > torch.quantile(usual.score, 1 - THRESHOLD)
        rows = torch.nonzero(above).flatten()
        rows = rows[torch.argsort(found.score[rows], descending=True, stable=True)]
        states = _residual(network, known, inputs[rows], sites[-1]) if len(rows) else torch.zeros(0, 1)
        passes = (len(sites) + 3) * (len(known) + len(inputs))
        return Ranked(
            groups=[rows[part].tolist() for part in apart(states.double().numpy(), seed)],
            flagged=len(rows),
            by_confidence=int((above & (unsure.score > torch.quantile(plain.score, 1 - THRESHOLD))).sum()),
            near_copies=_near_copies(trusted, inputs),
            logits=forward(network, inputs),
            cost=Cost(forward=passes, backward=0),
        )


def _residual(network: torch.nn.Module, known: Tensor, group: Tensor, site: str) -> Tensor:
    """States less the mean state of trusted inputs with the same prediction: what they share is what is odd."""
    own, usual = (states_of(network, x, site) for x in (group, known))
    mine, theirs = (forward(network, x).argmax(-1) for x in (group, known))
    centres = {label: usual[theirs == label].mean(0) for label in theirs.unique().tolist()}
    return torch.stack([own[i] - centres.get(label, usual.mean(0)) for i, label in enumerate(mine.tolist())])


def apart(states: NDArray[np.float64], seed: int) -> list[list[int]]:
    """Row numbers of each group, the largest first: as many groups as tell the states apart best, or one."""
    everything = [list(range(len(states)))]
    if len(states) < 2 * _LEAST:
        return everything
    best: tuple[float, NDArray[np.int64]] | None = None
    for count in range(2, _MOST_GROUPS + 1):
        labels = KMeans(count, n_init=4, random_state=seed % 2**31).fit_predict(states)
        if np.bincount(labels, minlength=count).min() < _LEAST:
            continue
        score = float(silhouette_score(states, labels))
        if score >= _APART and (best is None or score > best[0]):
            best = score, labels
    if best is None:
        return everything
    groups = [np.flatnonzero(best[1] == label).tolist() for label in np.unique(best[1])]
    return sorted(groups, key=len, reverse=True)


def _near_copies(trusted: Dataset, inputs: Tensor) -> int:
    """Inputs within a hundredth of the range of a trusted one in every cell."""
    scale = (trusted.high - trusted.low).amax().clamp_min(1e-12)
    known, seen = (x.flatten(1) / scale for x in (trusted.x, inputs))
    nearest = torch.cat([torch.cdist(part, known, p=float("inf")).amin(1) for part in seen.split(256)])
    return int((nearest < 0.01).sum())


def calibrate(controls: Sequence[Taught]) -> Calibration:
    """Controls of each family judged by those of the others, and the baselines in the same way."""
    inside, parts, passive = (left_out(controls, figures) for figures in ("figures", "parts", "sureness"))

    def called(judged: Sequence[tuple[Taught, Any]], kind: str, *, other: bool = True) -> Rate:
        rows = [(answer.answer == OTHER) == other for control, answer in judged if control.kind == kind]
        return rate(sum(rows), len(rows))

    known = [(control, answer) for control, answer in passive if control.kind != "novel"]
    right = sum((answer.p["cheat"] > answer.p["honest"]) == (control.kind == "cheat") for control, answer in known)
    return Calibration(
        taught=sum(control.took for control in controls),
        of=len(controls),
        honest=called(inside, "honest", other=False),
        caught=called(inside, "cheat"),
        novel=called(inside, "novel"),
        baseline_caught=called(parts, "cheat"),
        baseline_novel=called(parts, "novel"),
        confidence_right=rate(right, len(known)),
    )
