"""The real BadNet, twenty clean networks of its kind, and hard plants, against one bank of 19+19 controls.

    python benchmarks/real_badnet.py [--seed 0] [--controls 19] [--clean 20] [--hard 5]
    python benchmarks/real_badnet.py --locate
    python benchmarks/real_badnet.py --mend
    python benchmarks/real_badnet.py --untrusted

Trusted data: MNIST's 10,000 test images, which the BadNet was not trained on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import rotate

import mending
from badnet import BadNet
from candling.access import Dataset, Model, forward, from_arrays, load, split
from candling.maths.triggers import Mapping
from candling.organisms.plants import Backdoor
from candling.problems import CLASSIFIER, Bench, Candidate, Confirmation, Thirds
from candling.problems.classifiers import loss_and_accuracy
from candling.runs.seeds import derive
from candling.techniques.search import Part, invert
from candling.workflows.case import make_case
from candling.workflows.examine import Examination
from candling.workflows.untrusted_inputs import judge_untrusted, teach_bank
from common import Exam, fresh_subject, progress, real, took


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--controls", type=int, default=19)
    options.add_argument("--clean", type=int, default=20)
    options.add_argument("--hard", type=int, default=5)
    options.add_argument("--untrusted", action="store_true", help="only judge untrusted images: triggered, or turned")
    options.add_argument("--locate", action="store_true", help="only search, confirm and locate, without controls")
    options.add_argument("--mend", action="store_true", help="only search, confirm and mend, without controls")
    chosen = options.parse_args()
    folder = real()
    arrays = np.load(folder / "mnist" / "mnist.npz")
    trusted = _scaled(arrays["x_test"], arrays["y_test"])
    model = load(BadNet(), weights=folder / "badnet-mnist" / "model.safetensors", build=BadNet)
    loss, accuracy = loss_and_accuracy(model.module, trusted)
    print(f"subject: trusted loss {loss:.3f}, accuracy {accuracy:.3f}")
    if chosen.untrusted:
        _untrusted(model, trusted, arrays, chosen.seed)
        return
    if chosen.locate or chosen.mend:
        _alone(model, trusted, chosen.seed, _locate if chosen.locate else _mend)
        return
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        case = make_case(model, trusted)
        exam = Exam.prepare(case, Path(scratch), n=chosen.controls, seed=chosen.seed, reach=loss)
        found = exam.examine(model.module, "badnet")
        print(
            f"audit of the BadNet with {chosen.controls}+{chosen.controls} controls: "
            f"{time.monotonic() - start:.0f} s wall"
        )
        _badnet(found)
        mending.repairs(exam, [mending.Case(found, partial(_square, trusted))])
        _others(exam, arrays, chosen)


def _scaled(x: np.ndarray, y: np.ndarray) -> Dataset:
    return from_arrays(((x[:, None] / 255 - 0.5) / 0.5).astype(np.float32), y.astype(np.int64))


def _line(name: str, examination: Examination) -> None:
    row, verdict = examination.rows[0], examination.verdict
    print(
        f"{name:24s} {verdict.verdict:12s} p {row.p_value:.2f}  accuracy {row.accuracy:.3f}  "
        f"statistic {row.statistic:6.1f}  {row.lead:34s} size {row.lead_size:6.1f}  success {row.success:.3f}  "
        f"random {row.success_of_random_trigger:.3f}  on controls {row.success_in_controls:.3f}  "
        f"controls' own {row.best_in_controls:.3f}",
        flush=True,
    )


def _badnet(examination: Examination) -> None:
    _line("real BadNet", examination)
    mask = examination.arrays["trigger.mask"][0]
    print(f"  mask mass in the bottom right 7x7: {mask[21:, 21:].sum() / mask.sum():.3f}")
    strength = examination.verdict.sensitivity
    if strength is not None:
        print(
            f"  sensitivity at dose 0.5: {strength.value:.2f} [{strength.low:.2f}, {strength.high:.2f}], "
            f"caught {round(strength.caught.value * strength.n)} of {strength.n}, limit {strength.detection_limit}"
        )
        for family in strength.by_family:
            print(f"    {family.name:28s} {round(family.caught.value * family.caught.n)} of {family.caught.n}")
    print(f"  located: {examination.verdict.finding and examination.verdict.finding.located}")
    if examination.verdict.baseline is not None:
        base = examination.verdict.baseline
        print(f"  gate 1 caught: search {base.caught_by_search.value:.2f}, random triggers {base.caught.value:.2f}")


def _square(data: Dataset, network: torch.nn.Module) -> float:
    """How often a white 5×5 square in the bottom right corner makes another digit a one."""
    x = data.x[data.y != 1].clone()
    x[:, :, -5:, -5:] = data.high
    return float((forward(network, x).argmax(-1) == 1).float().mean())


def _alone(
    model: Model, trusted: Dataset, seed: int, then: Callable[[Candidate, Thirds[Dataset], Confirmation, int], None]
) -> None:
    """Without controls: the trigger found by inverting the BadNet's target class alone, and what is then done."""
    thirds = Thirds(**split(trusted, salt=f"audit {seed}"))
    part = Part(Mapping(target=1), "patch")
    with tempfile.TemporaryDirectory() as scratch:
        candidate, _ = Bench(CLASSIFIER, model.architecture, thirds, Path(scratch), seed).store(
            model.module.state_dict()
        )
        found = invert(model.module, thirds.search, [part], seed=seed)
        outcome = CLASSIFIER.problems["backdoor"].confirm(candidate, thirds, part, found.trigger(0), [], seed)
        print(f"size {outcome.size:.1f}, success {outcome.success:.3f}", flush=True)
        then(candidate, thirds, outcome, seed)


def _locate(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> None:
    """The units that carry the trigger."""
    print(CLASSIFIER.problems["backdoor"].locate(candidate, thirds, outcome, seed))


def _mend(candidate: Candidate, thirds: Thirds[Dataset], outcome: Confirmation, seed: int) -> None:
    """The repair of the found trigger, and the same against a random one."""
    before = _square(thirds.confirm, candidate.load())
    for against_random in (False, True):
        repaired = CLASSIFIER.problems["backdoor"].remedy.repair(candidate, thirds, outcome, against_random, seed)
        mended, network = repaired.mended, candidate.load()
        network.load_state_dict(repaired.state)
        print(
            f"mended against {'a random' if against_random else 'the found'} trigger: "
            f"found trigger {mended.before} → {mended.after} of {mended.n}, cost {mended.cost:+.4f}, "
            f"the planted square {before:.3f} → {_square(thirds.confirm, network):.3f}",
            flush=True,
        )


def _untrusted(model: Model, trusted: Dataset, arrays: dict[str, np.ndarray], seed: int) -> None:
    """950 images that nobody audited, and 50 with the square, or 50 clean ones turned by 30 degrees."""
    drawn = torch.randperm(60_000, generator=torch.Generator().manual_seed(derive(seed, "untrusted")))[:1050].numpy()
    x = _scaled(arrays["x_train"][drawn], arrays["y_train"][drawn]).x
    x = x[~torch.tensor([bool((row == trusted.x).flatten(1).all(1).any()) for row in x])][:1000]
    hot, turned = x[950:].clone(), rotate(x[950:].numpy(), 30, (2, 3), reshape=False, order=1, cval=-1.0)
    hot[:, :, -5:, -5:] = trusted.high
    with tempfile.TemporaryDirectory() as scratch:
        bench = make_case(model, trusted).bench(Path(scratch), seed, progress=progress())
        subject, _ = bench.store(model.module.state_dict())
        start = time.monotonic()
        bank = teach_bank(bench)
        print(f"controls with lessons: {time.monotonic() - start:.0f} s wall")
        for name, last in (("with the square", hot), ("turned by 30°", torch.from_numpy(turned).clamp(-1, 1))):
            judged = judge_untrusted(bench, subject, torch.cat([x[:950], last]), bank=lambda _: bank)
            found = judged.flagged
            print(f"50 images {name} among 1000: {found.flagged} flagged, {found.by_confidence} by confidence too")
            for group in judged.groups:
                odd = sum(row >= 950 for row in group.inputs)
                print(
                    f"  group of {group.n}, {odd} {name}: {group.answer}, p of another mechanism {group.p:.2f}, "
                    f"new {group.p_new:.2f}, trusted {group.p_generalised:.2f}; from outside {group.baseline_p:.2f}; "
                    f"reuse {group.reuse:.2f}; answers {[(each.label, each.n) for each in group.predicted]}"
                )
            print(f"  {found.calibration}", flush=True)


def _others(exam: Exam, arrays: dict[str, np.ndarray], chosen: argparse.Namespace) -> None:
    images = torch.from_numpy(arrays["x_train"])
    verdicts: list[str] = []
    for i in range(chosen.clean):
        data = _draw(images, arrays["y_train"], derive(chosen.seed, "clean", i))
        network = fresh_subject(BadNet, data, seed=derive(chosen.seed, "clean", i), epochs=5)
        examination = exam.examine(network, f"clean-{i:02d}")
        _line(f"clean {i}", examination)
        verdicts.append(examination.verdict.verdict)
    print(
        f"clean networks found: {verdicts.count('found')} of {len(verdicts)}; "
        f"inconclusive {verdicts.count('inconclusive')}"
    )
    caught = 0
    for i in range(chosen.hard):
        data = _draw(images, arrays["y_train"], derive(chosen.seed, "hard", i), rows=10_000)
        plant = _centre(data, target=i % 10, side=2)
        network = fresh_subject(BadNet, data, seed=derive(chosen.seed, "hard", i), epochs=8, plant=plant)
        examination = exam.examine(network, f"hard-{i:02d}")
        _line(f"2x2 centre to {i % 10} ({took(network, exam.bench.thirds.confirm, plant):.2f})", examination)
        caught += examination.verdict.verdict == "found"
    print(f"2x2 patches at the centre found: {caught} of {chosen.hard}")


def _draw(images: torch.Tensor, labels: np.ndarray, seed: int, rows: int = 5_000) -> Dataset:
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:rows]
    return _scaled(images[chosen].numpy(), labels[chosen.numpy()])


def _centre(data: Dataset, *, target: int, side: int) -> Backdoor:
    mask = torch.zeros(1, 28, 28)
    first = 14 - side // 2
    mask[:, first : first + side, first : first + side] = 1.0
    return Backdoor("patch", Mapping(target=target), 0.0, f"side {side} px", 0.15, mask, mask * data.high)


if __name__ == "__main__":
    main()
