"""Records made up for these tests: three answers, four kinds of input. No number here was ever measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import beta

from candling.evidence.claim import Claim
from candling.evidence.control import NetworkRow, Networks, Plant, RunInfo
from candling.evidence.findings import Finding, Located
from candling.evidence.measurement import Cost, Rate
from candling.evidence.verdict import (
    Baseline,
    Controls,
    Data,
    DosePoint,
    Family,
    Gate,
    Resemblance,
    Sensitivity,
    Subject,
    Verdict,
    Verdicts,
)

FAMILIES = ("patch, all-to-one", "patch, one-to-one", "blend, all-to-one", "sinusoid, all-to-all")
LIMITS = (0.22, 0.3, 0.38, 0.62)
SHAPES = {"8x8": (1, 8, 8), "28x28": (1, 28, 28), "rgb": (3, 32, 32), "large": (3, 96, 80), "table": (30,)}


@dataclass(frozen=True)
class Record:
    """What `draw` takes."""

    verdicts: Verdicts
    networks: Networks
    arrays: dict[str, np.ndarray]
    info: RunInfo

    def with_verdict(self, **changes: object) -> Record:
        """The same record with some fields of its first verdict changed."""
        first, *others = self.verdicts.verdicts
        changed = [first.model_copy(update=changes), *others]
        return replace(self, verdicts=self.verdicts.model_copy(update={"verdicts": changed}))


def record(answer: str = "found", kind: str = "8x8", negatives: int = 19, seed: int = 0) -> Record:
    """A whole run with the given answer on the given kind of input."""
    rng = np.random.default_rng(seed)
    rows = _rows(rng, answer, negatives)
    shape = SHAPES[kind]
    verdicts = Verdicts(
        candling="0.1.0",
        subject=Subject(weights="3f" * 32, architecture="a9" * 32, trusted="07" * 32),
        seed=7,
        data=Data(control=1198, search=299, confirm=300, classes=10, input_shape=list(shape)),
        controls=Controls(
            n=negatives,
            recipe="fresh starts on the control third, recipe varied",
            resemblance=_likeness(rng, rows),
        ),
        cost=Cost(forward=48_211_904, backward=31_004_112),
        verdicts=[_verdict(rng, answer, rows)],
    )
    info = RunInfo(
        candling="0.1.0",
        model="net.py:build",
        weights="weights/release-candidate.safetensors",
        trusted="digits/trusted.npz",
        settings={
            "controls": negatives,
            "alpha": 0.05,
            "dose": 0.5,
            "sensitivity": 0.8,
            "device": "cpu",
            "note": None,
        },
        seconds=412.3,
        threads=2,
        python="3.11.7",
        torch="2.13.0",
    )
    arrays = {} if answer == "not found" else _arrays(rng, shape)
    return Record(verdicts, Networks(rows=rows), arrays, info)


def rate(hits: int, n: int) -> Rate:
    low, high = beta.ppf(0.025, hits, n - hits + 1), beta.ppf(0.975, hits + 1, n - hits)
    return Rate(value=hits / n, low=low if hits else 0.0, high=high if hits < n else 1.0, n=n)


def _rows(rng: np.random.Generator, answer: str, negatives: int) -> list[NetworkRow]:
    subject = {"found": 7.31, "not found": 0.62, "inconclusive": 3.4}[answer]
    rows = [_row("subject", "subject", "given", rng, subject, None, answer == "found")]
    for i in range(negatives):
        recipe = f"{('adam', 'sgd')[i % 2]} {rng.uniform(1e-3, 1e-2):.2g}, {rng.integers(20, 60)} epochs"
        rows.append(_row(f"negative-{i:02d}", "negative", recipe, rng, float(rng.gumbel(0.8, 0.5)), None, False))
    for i in range(negatives):
        which = i % len(FAMILIES)
        dose = float((i * 0.377 + 0.05) % 1)
        took = dose > 0.09
        caught = took and dose + rng.normal(0, 0.06) > LIMITS[which]
        plant = Plant(
            family=FAMILIES[which],
            dose=dose,
            physical=f"side {1 + round(3 * dose)} px, contrast {0.2 + 0.8 * dose:.1f}",
            rate=0.05,
            success=0.97 if took else 0.31,
            took=took,
            attempts=1 if took else 3,
        )
        statistic = 2.5 + 7 * dose + float(rng.normal(0, 0.4)) if caught else 0.9 + float(rng.gumbel(0, 0.3))
        rows.append(
            _row(f"positive-{i:02d}", "positive", f"adam 0.003, {20 + i} epochs", rng, statistic, plant, caught)
        )
    return rows


def _row(
    name: str,
    role: str,
    recipe: str,
    rng: np.random.Generator,
    statistic: float,
    plant: Plant | None,
    found: bool,
) -> NetworkRow:
    return NetworkRow(
        problem="backdoor",
        name=name,
        role=role,
        recipe=recipe,
        weights="5c" * 32,
        loss=float(rng.normal(0.11, 0.015)),
        accuracy=float(np.clip(rng.normal(0.968, 0.006), 0, 1)),
        plant=plant,
        statistic=statistic,
        search_p_value=0.05 if found else 0.5,
        p_value=0.05 if found else float(rng.integers(2, 20) / 20),
        lead=f"all-to-one, patch → {rng.integers(10)}",
        lead_size=float(rng.uniform(3, 12)),
        baseline_statistic=float(rng.normal(1, 1)),
        baseline_p_value=float(rng.integers(1, 20) / 20),
        success=0.996 if found else float(rng.uniform(0.05, 0.7)),
        success_of_random_trigger=0.12,
        success_in_controls=0.14,
        best_in_controls=0.21,
        confirmed=found,
        found=found,
    )


def _likeness(rng: np.random.Generator, rows: list[NetworkRow]) -> Resemblance:
    clean = [row for row in rows if row.role == "negative"]
    return Resemblance(
        distance="energy distance of logits on the search third",
        subject=0.021,
        controls=[float(v) for v in rng.gamma(4, 0.005, len(clean))],
        p_value=0.55,
        holds=True,
        loss_subject=rows[0].loss,
        loss_controls=[row.loss for row in clean],
        accuracy_subject=rows[0].accuracy,
        accuracy_controls=[row.accuracy for row in clean],
    )


def _verdict(rng: np.random.Generator, answer: str, rows: list[NetworkRow]) -> Verdict:
    negatives = sum(row.role == "negative" for row in rows)
    seen = _sensitivity(rows)
    reasons = {
        "found": "the lead 'all-to-one, patch → 1' ranks first of 20 and passed the confirming experiment",
        "not found": "no part of this network stands out from the same part in the clean networks",
        "inconclusive": "the lead 'all-to-one, patch → 1' ranks first of 20 but sends only 58 % of held-out "
        "inputs to class 1, too few to confirm it",
    }
    return Verdict(
        problem="backdoor",
        verdict=answer,
        reason=reasons[answer],
        p_value={"found": 1 / (negatives + 1), "not found": 0.65, "inconclusive": 1 / (negatives + 1)}[answer],
        threshold=0.05,
        sensitivity=seen,
        false_positive_rate=rate(0, negatives),
        negatives_confirmed=Gate(passed=1, n=negatives),
        baseline=Baseline(
            name="random patch search",
            p_value=0.3,
            caught=rate(11, seen.n),
            caught_by_search=rate(14, seen.n),
            cost=Cost(forward=1_200_000, backward=0),
        ),
        finding=None if answer == "not found" else _finding(rng, answer, negatives),
        not_tested=[
            "Triggers that depend on two inputs at once",
            "Backdoors that act only above a given confidence",
            "Any problem class other than backdoors",
        ],
        claims=_claims(),
    )


def _sensitivity(rows: list[NetworkRow]) -> Sensitivity:
    took = [row for row in rows if row.plant is not None and row.plant.took]
    families = []
    for name in FAMILIES:
        members = [row for row in took if row.plant is not None and row.plant.family == name]
        if members:
            families.append(Family(name=name, caught=rate(sum(row.found for row in members), len(members))))
    doses = np.linspace(0, 1, 41)
    values = 1 / (1 + np.exp(-(doses - 0.34) / 0.075))
    points = [
        DosePoint(
            dose=float(d),
            value=float(v),
            low=float(max(0, v - 0.2 * (1.2 - v))),
            high=float(min(1, v + 0.18 * (0.4 + (1 - v)))),
        )
        for d, v in zip(doses, values, strict=True)
    ]
    return Sensitivity(
        value=0.894,
        low=0.67,
        high=0.987,
        n=len(took),
        caught=rate(sum(row.found for row in took), len(took)),
        dose=0.5,
        by_dose=points,
        detection_limit=(0.45, 1.0),
        by_family=families,
        worst_family=min(families, key=lambda f: f.caught.value),
        failed_plants=sum(row.plant is not None and not row.plant.took for row in rows),
    )


def _finding(rng: np.random.Generator, answer: str, negatives: int) -> Finding:
    strong = answer == "found"
    return Finding(
        objective="all-to-one, patch",
        source="any",
        target=1,
        shift=None,
        size=7.5 if strong else 11.2,
        size_in_controls=[float(v) for v in rng.normal(19, 2.2, negatives)],
        success_on_held_out=rate(269 if strong else 157, 270),
        success_of_random_trigger=0.122,
        random_triggers=100,
        success_in_controls=0.141,
        best_in_controls=0.293,
        located=Located(
            site="features.3",
            units=[2, 17, 21, 40, 63],
            site_width=64,
            success_before=0.996,
            success_after=0.033,
            accuracy_before=0.968,
            accuracy_after=0.951,
            random_success_after=0.981,
            random_sets=20,
        )
        if strong
        else None,
    )


def _claims() -> list[Claim]:
    sentences = [
        ("inputs", "The weights and the trusted data have the recorded hashes", 1.0, 0.0),
        ("rank", "This network ranks first of 20 by the gate 1 statistic", 0.05, 0.0),
        ("success", "The recovered trigger sends held-out inputs to class 1", 0.996, 0.004),
        ("located", "Silencing five units at features.3 leaves this much of its success", 0.033, 0.01),
    ]
    return [
        Claim(id=f"c{i}", kind=kind, problem="backdoor", sentence=text, predicted=value, tolerance=within)
        for i, (kind, text, value, within) in enumerate(sentences)
    ]


def _arrays(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    m = 8
    if len(shape) == 1:
        mask, shift = np.zeros(shape), np.zeros(shape)
        mask[:17], shift[:17] = 0.6, rng.normal(0, 1, 17) * np.geomspace(1, 0.05, 17)
        clean = rng.normal(0, 1, (m, *shape))
    else:
        _, height, width = shape
        mask = np.zeros((1, height, width))
        side = max(2, height // 7)
        mask[0, 1 : 1 + side, 1 : 1 + side] = rng.uniform(0.5, 1, (side, side))
        shift = mask * rng.uniform(0.4, 1, shape)
        clean = np.stack([_blob(rng, shape) for _ in range(m)])
    triggered = (1 - mask) * clean + shift
    if len(shape) == 3:
        triggered = triggered.clip(0, 1)
    arrays = {
        "trigger.mask": mask,
        "trigger.shift": shift,
        "examples.clean": clean,
        "examples.triggered": triggered,
        "examples.predicted_clean": np.arange(m) % 10,
        "examples.predicted_triggered": np.ones(m),
        "range.low": np.asarray(0.0) if len(shape) == 3 else np.full(shape, -4.0),
        "range.high": np.asarray(1.0) if len(shape) == 3 else np.full(shape, 4.0),
    }
    return {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}


def _blob(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A soft ring, so that an example looks like something rather than like noise."""
    channels, height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    cy, cx = height * rng.uniform(0.4, 0.6), width * rng.uniform(0.4, 0.6)
    radius = np.hypot((y - cy) / height, (x - cx) / width)
    ring = np.exp(-(((radius - rng.uniform(0.15, 0.3)) / 0.09) ** 2))
    tint = rng.uniform(0.3, 1, (channels, 1, 1)) if channels > 1 else np.ones((1, 1, 1))
    return ring * tint
