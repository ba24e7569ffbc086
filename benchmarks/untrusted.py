"""Untrusted digits through the bundled samples: triggered, turned and noisy ones, in either network.

    python benchmarks/untrusted.py [--seed 5]

Each set holds 390 digits that the auditor does not have (triggered: 410) and 60 (40) that were changed.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from candling.organisms.networks.digits import digits
from candling.organisms.samples import SAMPLES, load_sample
from candling.organisms.samples.make import corner_patch
from candling.workflows.case import make_case
from candling.workflows.untrusted_inputs import judge_untrusted, teach_bank
from common import progress


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=5)
    chosen = options.parse_args()
    rows, _ = digits()
    g = torch.Generator().manual_seed(chosen.seed)
    x = rows.x
    noisy = (x[:60] + 0.25 * torch.randn(x[:60].shape, generator=g)).clamp(0, 1)
    sets = {
        "triggered": (corner_patch(rows).apply(rows, x[:40]), x[40:]),
        "turned by 90°": (torch.rot90(x[:60], 1, (2, 3)), x[60:]),
        "noisy": (noisy, x[60:]),
    }
    with tempfile.TemporaryDirectory() as scratch:
        bank = None
        for name in SAMPLES:
            model, trusted = load_sample(name)
            bench = make_case(model, trusted).bench(Path(scratch), chosen.seed, progress=progress())
            subject, _ = bench.store(model.module.state_dict())
            bank = bank or teach_bank(bench)
            for what, (changed, usual) in sets.items():
                judged = judge_untrusted(bench, subject, torch.cat([changed, usual]), bank=lambda _, bank=bank: bank)
                flagged = judged.flagged
                print(f"{name} network, {what}: {flagged.flagged} flagged, {flagged.by_confidence} by confidence too")
                for group in judged.groups:
                    odd = sum(row < len(changed) for row in group.inputs)
                    print(
                        f"  {group.n}, {odd} of them changed: {group.answer}; p of another mechanism {group.p:.2f}, "
                        f"new {group.p_new:.2f}, trusted {group.p_generalised:.2f}, from outside "
                        f"{group.baseline_p:.2f}; reuse {group.reuse:.2f}",
                        flush=True,
                    )
        print(judged.flagged.calibration)


if __name__ == "__main__":
    main()
