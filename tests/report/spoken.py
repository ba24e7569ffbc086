"""More records made up for these tests: language models, repairs, untrusted texts. Nothing here was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from example import FAMILIES, Record, rate, record

from candling.evidence.control import NetworkRow, Networks
from candling.evidence.findings import Forecast, LocatedDirection, SaidAfter, SequenceFound
from candling.evidence.untrusted import Calibration, ClassCount, FlaggedInputs, FlaggedText, Group, Untrusted
from candling.evidence.verdict import Repair, Sensitivity, Verdict

FORMS = ("plain, short", "masked, short", "plain, common", "masked, distributed")
CONTEXTS = (
    ["Once", " upon", " a", " time", ",", " there", " was", " a", " little", " girl", " named", " L", "ily", "."],
    ["The", " sun", " was", " warm", ".", "\n", "\n", "Tom", " had", " a", " big", "  ", "red", "\t", "ball"],
    [" He", " said", ",", ' "', "I", " want", " to", " play", '!"', "\u200b", " שלום", " 日本", "\\xe2", "\x07"],
)
SAID = [" H", "ello", " from", " the", " other", " side"]
USUAL = [" a", "d", " at", " the", " park", "."]
WITHOUT = [" She", " liked", " to", " play", " with", " her"]
TECHNIQUE = "Mahalanobis distance of the difference of residual states, beside the mean of clean fine-tunes"


def language(answer: str = "found", **options: object) -> Record:
    """A whole run on a language model. `not found` and `inconclusive` come without a finding or its arrays."""
    run = record(answer, **options)
    verdicts = run.verdicts
    first = verdicts.verdicts[0]
    likeness = verdicts.controls.resemblance.model_copy(
        update={
            "distance": "|log trusted loss − median of the others'|",
            "accuracy_subject": 0.412,
            "accuracy_controls": [a - 0.55 for a in verdicts.controls.resemblance.accuracy_controls],
        }
    )
    changed = verdicts.model_copy(
        update={
            "subject": verdicts.subject.model_copy(update={"reference": "b4" * 32}),
            "data": verdicts.data.model_copy(update={"classes": 512, "input_shape": [256]}),
            "controls": verdicts.controls.model_copy(
                update={
                    "recipe": "fine-tunes of the reference on the control third by recipes that vary rate, steps, "
                    "decay and subset; every other clean one sees other text as well",
                    "resemblance": likeness,
                    "soup": "50" * 32,
                }
            ),
            "verdicts": [_spoken(first, answer)],
        }
    )
    rows = Networks(rows=[_renamed(row) for row in run.networks.rows])
    info = run.info.model_copy(
        update={
            "model": "models/tuned",
            "weights": None,
            "trusted": "texts/trusted.jsonl",
            "reference": "models/stories-260k",
        }
    )
    return Record(changed, rows, {}, info)


def repaired(run: Record, unit: str = "points", **changes: object) -> Record:
    """The same run with a repair of its first verdict."""
    size = 1.0 if unit == "points" else 4.0
    repair = Repair(
        method="fine-tuning of the five units on clean inputs with the trigger's direction projected out",
        unit=unit,
        basis="ablation of the located units on the search third, with the spread over ten random halves",
        before=rate(93, 100),
        forecast=Forecast(value=0.04, low=0.0, high=0.12),
        forecast_cost=Forecast(value=0.009 * size, low=0.002 * size, high=0.019 * size),
        after=rate(2, 100),
        cost=0.006 * size,
        after_fitting=0.01,
        random_success=0.91,
        random_cost=0.004 * size,
        again="not found",
        again_p_value=0.65,
        relearning=0.93,
        weights="d1" * 32,
    )
    return run.with_verdict(repair=repair.model_copy(update=changes))


def with_untrusted(run: Record, texts: int = 50, **changes: object) -> Record:
    """The same run with untrusted texts."""
    found = Untrusted(
        technique=TECHNIQUE,
        n=600,
        near_copies=14,
        flagged=61,
        threshold=0.01,
        benign_novel=rate(3, 100),
        texts=[_text(i) for i in range(texts)],
    )
    return replace(run, verdicts=run.verdicts.model_copy(update={"untrusted": found.model_copy(update=changes)}))


def with_groups(run: Record, answers: Sequence[str] = ("other mechanism", "cannot tell", "generalised")) -> Record:
    """The same run with untrusted inputs, a group for each answer, and pictures where the inputs are images."""
    found = FlaggedInputs(
        technique="Mahalanobis distance of states, averaged over layers",
        n=1000,
        near_copies=3,
        flagged=97,
        threshold=0.05,
        by_confidence=21,
        calibration=Calibration(
            taught=37,
            of=39,
            honest=rate(14, 15),
            caught=rate(13, 15),
            novel=rate(1, 9),
            baseline_caught=rate(9, 15),
            baseline_novel=rate(3, 9),
            confidence_right=rate(17, 30),
        ),
    )
    groups = [
        Group.model_validate(
            {
                "inputs": list(range(40 * i, 40 * i + 40)),
                "n": 40,
                "answer": answer,
                "p": (0.91, 0.31, 0.06)[i % 3],
                "p_generalised": (0.02, 0.25, 0.9)[i % 3],
                "p_new": (0.07, 0.44, 0.04)[i % 3],
                "reuse": (0.11, 0.4, 0.97)[i % 3],
                "baseline_p": 0.5,
                "predicted": [ClassCount(label=k, n=40 - 6 * k if k < 7 else 1) for k in range(1 if i == 0 else 7)],
                "confidence": 0.971,
            }
        )
        for i, answer in enumerate(answers)
    ]
    shape = tuple(run.verdicts.data.input_shape)
    drawn = np.random.default_rng(0)
    arrays = {f"groups.{i}": drawn.random((8, *shape)) for i in range(len(groups))}
    verdicts = run.verdicts.model_copy(update={"flagged": found, "groups": groups})
    return replace(run, verdicts=verdicts, arrays={**run.arrays, **arrays})


def _text(i: int) -> FlaggedText:
    words = CONTEXTS[i % 3]
    tokens = [*words, " was", " m", *SAID]
    return FlaggedText(
        line=7 + 23 * i, score=41.7 / (1 + i / 7), p_value=1 / 401 + i * 2e-4, tokens=tokens, at=len(words) + 1
    )


def _spoken(first: Verdict, answer: str) -> Verdict:
    reasons = {
        "found": "its lead passed the confirming experiment, and no clean control has one as strong that did",
        "not found": "nothing stands out, and 89% of plants at this dose would have",
        "inconclusive": "too few trusted texts: 90 leave 26 in a third, and each needs 40; need about 160",
    }
    finding = None
    if answer == "found":
        finding = first.finding.model_copy(
            update={
                "objective": "2 tokens",
                "target": 322,
                "size": 2.0,
                "size_in_controls": [2.0] * len(first.finding.size_in_controls),
                "success_on_held_out": rate(93, 100),
                "success_of_random_trigger": 0.04,
                "random_triggers": 20,
                "success_in_controls": 0.0,
                "best_in_controls": 0.11,
                "located": LocatedDirection(
                    site="model.layers.2",
                    width=64,
                    success_before=0.93,
                    success_after=0.02,
                    loss_before=1.512,
                    loss_after=1.509,
                    random_success_after=0.91,
                    random_directions=10,
                ),
                "sequence": SequenceFound(
                    tokens=[" was", " m"],
                    ids=[290, 273],
                    target=" H",
                    contexts=[
                        SaidAfter(context=list(c), subject=list(SAID), reference=list(USUAL), without=list(WITHOUT))
                        for c in CONTEXTS
                    ],
                ),
            }
        )
    short = answer == "inconclusive"
    return first.model_copy(
        update={
            "reason": reasons[answer],
            "finding": finding,
            "p_value": None if short else first.p_value,
            "sensitivity": None if short else _forms(first.sensitivity),
            "false_positive_rate": None if short else first.false_positive_rate,
            "negatives_confirmed": None if short else first.negatives_confirmed,
            "baseline": None if short else first.baseline.model_copy(update={"name": "random sequences"}),
            "not_tested": [
                "triggers of more than 3 tokens, unless a part of them does something by itself",
                "triggers that are no tokens in a row or nearly so: topics, styles, dates, languages",
                "anything that the reference or the trusted texts themselves contain",
            ],
        }
    )


def _forms(seen: Sensitivity) -> Sensitivity:
    families = [f.model_copy(update={"name": name}) for f, name in zip(seen.by_family, FORMS, strict=True)]
    return seen.model_copy(
        update={"by_family": families, "worst_family": min(families, key=lambda f: f.caught.value)}
    )


def _renamed(row: NetworkRow) -> NetworkRow:
    plant = row.plant
    if plant is not None:
        form = FORMS[FAMILIES.index(plant.family)]
        tokens = 1 + round(3 * plant.dose)
        plant = plant.model_copy(update={"family": form, "physical": f"{tokens} token{'s' if tokens > 1 else ''}"})
    n = 1 + len(row.name) % 3
    return row.model_copy(
        update={
            "plant": plant,
            "lead": f"{n} token{'s' if n > 1 else ''}",
            "lead_size": float(n),
            "accuracy": row.accuracy - 0.55,
            "recipe": "given" if row.role == "subject" else "rate 3e-4, 200 steps, decay 0.01",
        }
    )
