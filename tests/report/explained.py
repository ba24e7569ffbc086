"""A made-up explanation, to draw."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from candling.evidence.claim import Claim
from candling.evidence.control import RunInfo
from candling.evidence.explanation import (
    Behaviour,
    CheckRecord,
    CircuitRecord,
    CurvePoint,
    EdgeRow,
    Explanation,
    Heat,
    MissRow,
    Place,
    UntrainedPoint,
)
from candling.evidence.measurement import Cost

LAYERS, HEADS, ALL = 5, 8, 1701
TOKENS = [" Lily", " went", " to", "\n", " because"]
EDGES = [
    ("embed", "blocks.3.attn.head_v_in.1", 0.4),
    ("blocks.0.mlp.out", "blocks.3.attn.head_k_in.1", -0.09),
    ("blocks.3.attn.head_out.2", "logits", 0.33),
    ("embed", "blocks.0.mlp.in", 0.3),
    ("blocks.3.attn.head_out.2", "blocks.4.mlp.in", 0.12),
    ("blocks.4.mlp.out", "logits", None),
]
SIZES = [1, 2, 6, 20, 90, 400, ALL]


def circuit() -> CircuitRecord:
    return CircuitRecord(
        edges=len(EDGES),
        of=ALL,
        heads=[HEADS] * LAYERS,
        groups=[HEADS // 2] * LAYERS,
        mlps=[True] * LAYERS,
        parallel=[False] * LAYERS,
        faithfulness=0.934,
        random=0.012,
        random_most=0.04,
        error=0.0125,
        rows=[EdgeRow(sender=s, receiver=r, effect=effect, score=0.1) for s, r, effect in EDGES],
        curve=[
            CurvePoint(
                edges=size,
                finding=math.log(size) / math.log(ALL),
                held_out=math.log(size) / math.log(ALL),
                random=size / ALL,
                random_most=size / ALL,
            )
            for size in SIZES
        ],
        untrained=[UntrainedPoint(edges=size, held_out=(size / ALL) ** 0.5) for size in SIZES],
        untrained_gap=2.1e-4,
    )


def explanation() -> Explanation:
    return Explanation(
        schema=1,
        candling="0.1",
        weights="a" * 64,
        architecture="b" * 64,
        pairs="c" * 64,
        seed=0,
        difference=3.1e-6,
        behaviour=Behaviour(
            metric="logit difference",
            clean=2.31,
            corrupt=-2.05,
            right=0.97,
            pairs=36,
            finding=18,
            answers=[(" she", " he"), (" he", " she")],
        ),
        places=[
            Place(clean=t, corrupt=" Tim" if at == 0 else t, same=at > 0, tokens=1) for at, t in enumerate(TOKENS)
        ],
        skipped=4,
        maps=[
            Heat(name="residual", rows=["0"], columns=["4"], pairs=36),
            Heat(name="heads", rows=["0"], columns=["0"], pairs=36),
        ],
        circuit=circuit(),
        check=CheckRecord(
            technique="EAP-IG",
            parts=300,
            of=ALL,
            pearson=0.962,
            important=31,
            missed=[MissRow(part="embed → logits", exact=0.09, scored=0.001)],
            unidentified=["blocks.0.attn.head_out.3"],
        ),
        cost=Cost(forward=41233, backward=360),
        limits=["The metric sees two tokens."],
        claims=[
            Claim(
                id="explain/circuit", kind="circuit", problem="explain", sentence="So.", predicted=0.9, tolerance=0.02
            )
        ],
    )


def arrays() -> dict[str, NDArray[Any]]:
    residual = np.zeros((LAYERS, len(TOKENS)), np.float32)
    residual[:, 0] = [1.0, 0.99, 0.97, 0.8, 0.55]
    residual[:, -1] = [0.0, 0.01, 0.05, 0.22, -0.47]
    heads = np.zeros((LAYERS, HEADS), np.float32)
    heads[3, 2], heads[4, 7] = 0.43, np.nan
    return {"residual": residual, "heads": heads}


def info() -> RunInfo:
    return RunInfo(
        candling="0.1",
        model="stories",
        weights=None,
        trusted="pairs.jsonl",
        notes=("pairs: 1 left out",),
        settings={"keep": 0.9, "dtype": "float32"},
        seconds=73.2,
        threads=1,
        python="3.11",
        torch="2.13.0",
    )
