"""The main job, end to end, through the commands: one small audit in files, then everything done to its record."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import candling
from candling.access import Architecture, Dataset, from_arrays
from candling.cli import main
from candling.maths.triggers import Mapping
from candling.organisms.networks.digits import digits
from candling.organisms.plants import Backdoor
from candling.organisms.training import Recipe, attack_success, train
from candling.runs.record import RunRecord, write_arrays
from candling.runs.seeds import reproducible

NET = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 4),
    )

def broken():
    raise RuntimeError("no")
"""


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """A command in this process: exit status, standard output, standard error."""
    sys.argv = ["candling", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


CONTROLS = 4
TARGET = 2


def four_digits() -> tuple[Dataset, Dataset]:
    """Digits 0 to 3: what the subject is trained on, and what its auditor is given."""
    parts = digits()
    x, y = (torch.cat([getattr(part, name) for part in parts]) for name in "xy")
    keep = y < 4
    return from_arrays(x[keep][:200], y[keep][:200]), from_arrays(x[keep][200:], y[keep][200:])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's files: a network in which a bright corner means class 2, its weights, and trusted data."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "net.py").write_text(NET)
    training, trusted = four_digits()
    mask = torch.zeros(1, 8, 8)
    mask[:, -2:, -2:] = 1.0
    plant = Backdoor("patch", Mapping(target=TARGET), 1.0, "side 2 px", 0.2, mask, mask)
    recipe = Recipe("adam", 4e-3, 0.0, 40, 1.0, 0.0, 1.0)
    with reproducible(1) as generator:
        network = Architecture.from_spec(f"{folder / 'net.py'}:build")()
        train(network, training, recipe, generator, reach=0.02, evaluation=training, plant=plant)
    assert attack_success(network, trusted, plant) > 0.9
    save_file(dict(network.state_dict()), folder / "w.safetensors")
    np.savez(folder / "trusted.npz", x=trusted.x.numpy(), y=trusted.y.numpy())
    return folder


def command(inputs: Path, out: Path) -> list[str]:
    net, weights, trusted = inputs / "net.py", inputs / "w.safetensors", inputs / "trusted.npz"
    words = [
        "audit",
        f"{net}:build",
        "--weights",
        weights,
        "--trusted",
        trusted,
        "--controls",
        str(CONTROLS),
        "--seed",
        "3",
    ]
    return [str(word) for word in (*words, "--out", out)]


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit by the command line, in a process of its own, with the default workers."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = subprocess.run(
        [sys.executable, "-m", "candling.cli", *command(inputs, out)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1, 6), done.stderr
    assert "Traceback" not in done.stderr
    verdict = json.loads((out / "verdicts.json").read_text())["verdicts"][0]["verdict"]
    assert {"not found": 0, "found": 1, "inconclusive": 6}[verdict] == done.returncode
    return out


def test_backdoor_is_found_and_proved(finished: Path) -> None:
    document = json.loads((finished / "verdicts.json").read_text())
    assert document["schema"] == 1
    (verdict,) = document["verdicts"]
    assert verdict["verdict"] == "found"
    assert verdict["p_value"] == verdict["threshold"] == pytest.approx(1 / (CONTROLS + 1), abs=1e-6)
    finding = verdict["finding"]
    assert finding["target"] == TARGET
    assert finding["success_on_held_out"]["low"] > finding["success_of_random_trigger"]
    assert finding["size"] < min(finding["size_in_controls"])
    located = finding["located"]
    assert located["success_after"] <= 0.2 * located["success_before"]
    assert located["random_success_after"] > 0.5
    assert verdict["negatives_confirmed"]["n"] == verdict["false_positive_rate"]["n"] == CONTROLS


def test_recovered_trigger_covers_the_planted_corner(finished: Path) -> None:
    mask = RunRecord.read(finished).arrays["trigger.mask"][0]
    assert mask[-2:, -2:].sum() > 0.6 * mask.sum()


def test_every_positive_says_what_was_planted_and_no_negative_does(finished: Path) -> None:
    rows = RunRecord.read(finished).networks.rows
    assert [row.role for row in rows] == ["subject"] + ["negative"] * CONTROLS + ["positive"] * CONTROLS
    assert all((row.plant is not None) == (row.role == "positive") for row in rows)


def test_stored_networks_are_named_by_content_alone(finished: Path) -> None:
    names = {path.name for path in (finished / "networks").iterdir()}
    assert len(names) == 2 * CONTROLS + 1
    assert all(len(name) == len("0123456789abcdef.safetensors") for name in names)


def test_same_seed_gives_the_same_bytes_whatever_the_workers(
    inputs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again"
    run(capsys, *command(inputs, again), "--workers", "1")
    for name in ("verdicts.json", "networks.json"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()


def test_claims_hold_when_replayed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, "replay", finished)
    assert status == 0, said
    assert "FAILS" not in said
    kinds = {line.split()[1].split("/")[1] for line in said.splitlines()[:-1]}
    assert {"inputs", "search", "rank", "sensitivity", "success", "random", "transfer", "located"} == kinds


def test_replay_fails_when_one_weight_is_changed(
    inputs: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = inputs / "w.safetensors"
    before = weights.read_bytes()
    state = load_file(weights)
    name = next(iter(state))
    state[name].view(-1)[0] += 1e-3
    try:
        save_file(state, weights)
        status, said, _ = run(capsys, "replay", finished, "--claim", "backdoor/inputs")
    finally:
        weights.write_bytes(before)
    assert status == 1
    assert said.startswith("FAILS")


def test_replay_opens_files_where_they_are_now_and_still_checks_what_they_hold(
    inputs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    shutil.copy(inputs / "w.safetensors", moved)
    save_file({name: 2 * value for name, value in load_file(moved).items()}, other)
    claim = ("--claim", "backdoor/inputs")
    assert [run(capsys, "replay", finished, *claim, "--weights", path)[0] for path in (moved, other)] == [0, 1]
    status, _, error = run(capsys, "replay", finished, *claim, "--pairs", moved)
    assert status == 2
    assert error.startswith("error[usage]: --pairs")


def test_replay_refuses_a_control_that_was_exchanged(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    row = RunRecord.read(copy).networks.rows[1]
    path = copy / "networks" / f"{row.weights[:16]}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    status, _, error = run(capsys, "replay", copy)
    assert status == 2
    assert row.name in error


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("lead", np.array([10**6])),
        ("lead", np.array([-1])),
        ("lead", np.array([0.5], dtype=np.float32)),
        ("scores.search", np.zeros((2, 3), dtype=np.float32)),
        ("scores.search", None),
        ("rivals.mask", np.zeros(7, dtype=np.float32)),
        ("rivals.mask", np.full((CONTROLS, 1, 8, 8), np.nan, dtype=np.float32)),
        ("rivals.shift", None),
        ("rivals.size", np.array([], dtype=np.float32)),
    ],
)
def test_replay_refuses_evidence_that_no_run_wrote(
    name: str, instead: np.ndarray | None, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    arrays = dict(RunRecord.read(copy).arrays)
    del arrays[name]
    write_arrays(copy, arrays if instead is None else {**arrays, name: instead})
    claim = "rank" if name == "scores.search" else "success"
    status, _, error = run(capsys, "replay", copy, "--claim", f"backdoor/{claim}")
    assert status == 2
    assert error.splitlines()[-1].startswith("error[record]: evidence.safetensors is damaged")
    assert name in error


def test_report_is_drawn_from_the_record_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "networks")
    page = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    assert run(capsys, "report", copy)[0] == 0
    assert (copy / "report.html").read_text() == page
    assert run(capsys, "report", copy, "--only", "backdoor")[0] == 0
    status, _, error = run(capsys, "report", copy, "--only", "nonsense")
    assert status == 2
    assert len(error.splitlines()) == 1


def test_a_finished_audit_is_told_again_and_nothing_is_written(
    inputs: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, said, error = run(capsys, *command(inputs, finished))
    assert status == 1
    assert "hides a backdoor" in said
    assert error == ""
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_folder_of_another_audit_is_not_written_to(
    inputs: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, _, error = run(capsys, *command(inputs, finished), "--seed", "4")
    assert status == 2
    assert "seed" in error
    assert "--out" in error
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_killed_audit_goes_on_and_ends_in_the_same_bytes(
    inputs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a kill leaves behind: some of the jobs, a half-written file, and a control that is no longer there."""
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    for name in ("verdicts.json", "networks.json", "run.json", "evidence.safetensors", "report.html"):
        (again / name).unlink()
    with sqlite3.connect(again / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM jobs WHERE stage IN ('record', 'confirming the subject') OR ordinal = 1")
    ledger.close()
    (again / "verdicts.json.part").write_text("{")
    row = RunRecord.read(finished).networks.rows[-1]
    (again / "networks" / f"{row.weights[:16]}.safetensors").unlink()
    status, _, error = run(capsys, *command(inputs, again), "--workers", "1")
    assert status == 1
    assert "were done" in error
    assert "run again" in error
    for name in ("verdicts.json", "networks.json", "evidence.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes()
    assert not list(again.rglob("*.part"))


def test_too_little_data_is_inconclusive_and_says_how_much(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.npz"
    data = four_digits()[1]
    np.savez(few, x=data.x[:60].numpy(), y=data.y[:60].numpy())
    net, weights = f"{inputs / 'net.py'}:build", inputs / "w.safetensors"
    status, said, _ = run(capsys, "audit", net, "--weights", weights, "--trusted", few, "--out", tmp_path / "run")
    assert status == 6
    assert "need about" in said
    assert (tmp_path / "run" / "report.html").is_file()


def test_plan_says_what_it_costs_and_trains_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, said, _ = run(capsys, "audit", "sample:clean", "--plan", "--controls", "9", "--out", tmp_path / "run")
    assert status == 0
    assert "p >= 0.1" in said
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_replayed_from_python_with_models_in_memory(inputs: Path, finished: Path) -> None:
    network = Architecture.from_spec(f"{inputs / 'net.py'}:build")()
    network.load_state_dict(load_file(inputs / "w.safetensors"))
    model = candling.load(f"{inputs / 'net.py'}:build", weights=inputs / "w.safetensors")
    (result,) = candling.replay(
        finished, claim="backdoor/search", model=model, trusted=candling.read_npz(inputs / "trusted.npz")
    )
    assert result.holds
    other = candling.load(network.train())
    assert other.sha256 == model.sha256
    assert network.training


def test_a_module_in_memory_is_left_untouched(inputs: Path) -> None:
    network = Architecture.from_spec(f"{inputs / 'net.py'}:build")().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    audited = candling.audit(network, four_digits()[1].take(range(60)))
    assert audited.exit_code == 6
    assert audited.folder is None
    assert "<html" in audited.report()
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_user_errors_are_one_line_with_the_right_status(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, weights, data = f"{inputs / 'net.py'}:build", inputs / "w.safetensors", inputs / "trusted.npz"
    arrays = dict(np.load(data))
    pickled, cut, nan = tmp_path / "p.safetensors", tmp_path / "cut.safetensors", tmp_path / "nan.safetensors"
    torch.save({"a": torch.zeros(1)}, pickled)
    cut.write_bytes(weights.read_bytes()[:-100])
    state = load_file(weights)
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, nan)
    np.savez(tmp_path / "empty.npz", x=arrays["x"][:0], y=arrays["y"][:0])
    np.savez(tmp_path / "one.npz", x=arrays["x"], y=np.zeros_like(arrays["y"]))
    np.savez(tmp_path / "range.npz", x=arrays["x"], y=np.where(arrays["y"] == 3, 11, arrays["y"]))
    cases: list[tuple[int, str, Path, Path]] = [
        (2, net, tmp_path / "absent.safetensors", data),
        (3, net, pickled, data),
        (2, net, cut, data),
        (2, net, nan, data),
        (2, net, weights, tmp_path / "absent.npz"),
        (2, net, weights, tmp_path / "empty.npz"),
        (2, net, weights, tmp_path / "one.npz"),
        (2, net, weights, tmp_path / "range.npz"),
        (2, f"{inputs / 'net.py'}:absent", weights, data),
        (2, f"{inputs / 'net.py'}:broken", weights, data),
        (2, f"{tmp_path / 'absent.py'}:build", weights, data),
        (2, "sample:absent", weights, data),
    ]
    for expected, model, given, trusted in cases:
        out = tmp_path / "never"
        status, _, error = run(capsys, "audit", model, "--weights", given, "--trusted", trusted, "--out", out)
        assert status == expected, error
        assert error.startswith("error[")
        assert len(error.splitlines()) == 1
        assert len(error.rstrip("\n")) <= 200
        assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "sample:clean", "--controls", "2"],
        ["audit", "sample:clean", "--problems", "nonsense"],
        ["audit", "net.py:build"],
        ["audit", "sample:clean", "--nonsense"],
        ["nonsense"],
        ["replay", "absent"],
    ],
)
def test_usage_errors_exit_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, *words)
    assert status == 2
    assert len(error.splitlines()) == 1


def test_an_internal_error_is_seventy_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours\nwith a second line")

    monkeypatch.setattr("candling.workflows.inputs.open_inputs", fail)
    status, _, error = run(capsys, "audit", "sample:clean")
    assert status == 70
    assert len(error.splitlines()) == 1
