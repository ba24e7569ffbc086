"""A solution end to end: a network whose rule is written into it, a record, a program that runs, claims that fail."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import candling
from candling.access import load
from candling.access.unlabelled import by_hash, unlabelled
from candling.cli import main
from candling.errors import InputError
from candling.evidence.program import inputs_of, run_program
from candling.workflows.solve import solve
from candling.workflows.solve_inputs import make_problem
from candling.workflows.solve_record import SolutionRecord

NET = '''
import torch
from torch import nn


class Residues(nn.Module):
    """1 where (2 a + b) mod 7 is below 3, from a table of each number's residue."""

    def __init__(self):
        super().__init__()
        self.first = nn.Embedding(17, 7)
        self.second = nn.Embedding(17, 7)
        self.head = nn.Linear(49, 2)
        self.act = nn.ReLU()

    def forward(self, x):
        both = self.act(self.first(x[:, 0])[:, :, None] + self.second(x[:, 1])[:, None, :] - 1)
        return self.head(both.flatten(1))


def build():
    return Residues()
'''
GRID = np.stack(np.meshgrid(np.arange(17), np.arange(17), indexing="ij"), -1).reshape(-1, 2)
TRUTH = ((2 * GRID[:, 0] + GRID[:, 1]) % 7 < 3).astype(np.int64)
RECORD = ("solution.json", "program.py", "report.html")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "net.py").write_text(NET)
    residues = torch.eye(7)[torch.arange(17) % 7]
    cells = torch.arange(49)
    inside = ((2 * (cells // 7) + cells % 7) % 7 < 3).float()
    state = {
        "first.weight": residues,
        "second.weight": residues.clone(),
        "head.weight": torch.stack([torch.zeros(49), 4 * inside - 2]),
        "head.bias": torch.zeros(2),
    }
    save_file(state, folder / "w.safetensors")
    np.savez(folder / "data.npz", x=GRID)
    np.savez(folder / "truth.npz", y=TRUTH)
    return folder


def run(*arguments: object) -> int:
    before = sys.argv
    sys.argv = ["candling", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)
    finally:
        sys.argv = before


def command(inputs: Path, out: Path, weights: str = "w.safetensors") -> int:
    files = ("--weights", inputs / weights, "--data", inputs / "data.npz", "--truth", inputs / "truth.npz")
    return run("solve", f"{inputs / 'net.py'}:build", *files, "--out", out)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert command(inputs, out) in (0, 1)
    return out


def test_the_rule_is_recovered(finished: Path) -> None:
    said = SolutionRecord.read(finished).solution
    assert said.program is not None
    assert (run_program(said.program, inputs_of(GRID, "pairs")) == TRUTH).all()
    assert said.outcome in ("solved", "behaviour only")
    assert said.agreement is not None
    assert said.agreement.value == 1.0
    assert max(each.agreement.value for each in said.nulls) < 0.9
    assert [part.program_truth.value for part in said.parts if part.program_truth] == [1.0]


def test_python_says_the_same_in_one_call(inputs: Path, finished: Path) -> None:
    scope: dict[str, Any] = {}
    exec(NET, scope)
    network = scope["build"]()
    network.load_state_dict(load_file(inputs / "w.safetensors"))
    said = candling.solve(candling.load(network, build=scope["build"]), GRID, truth=TRUTH).solution
    kept = SolutionRecord.read(finished).solution
    assert (said.program, said.outcome, said.site) == (kept.program, kept.outcome, kept.site)


def test_the_program_runs_on_its_own(inputs: Path, finished: Path) -> None:
    done = subprocess.run(
        [sys.executable, finished / "program.py", inputs / "data.npz"], capture_output=True, text=True, check=True
    )
    assert [int(line) for line in done.stdout.split()] == TRUTH.tolist()


def test_the_page_shows_the_program_line_by_line(finished: Path) -> None:
    page = html.unescape((finished / "report.html").read_text())
    source = (finished / "program.py").read_text().partition("import sys")[2].splitlines()
    shown = page[page.index("<pre>") : page.index("</pre>")]
    assert [line for line in source if line not in shown] == []
    assert "\\n" not in shown


def test_claims_hold_and_a_changed_weight_breaks_them(inputs: Path, finished: Path, tmp_path: Path) -> None:
    assert run("replay", finished) == 0
    state = load_file(inputs / "w.safetensors")
    state["head.weight"] = -state["head.weight"]
    save_file(state, tmp_path / "other.safetensors")
    assert run("replay", finished, "--weights", tmp_path / "other.safetensors") == 1


def test_the_same_command_reads_the_record_and_another_run_writes_the_same_bytes(
    inputs: Path, finished: Path, tmp_path: Path
) -> None:
    before = {name: (finished / name).read_bytes() for name in RECORD[:2]}
    assert command(inputs, finished) in (0, 1)
    assert command(inputs, tmp_path / "again") in (0, 1)
    for name, content in before.items():
        assert (finished / name).read_bytes() == content
        assert (tmp_path / "again" / name).read_bytes() == content
    page = (finished / "report.html").read_bytes()
    assert run("report", finished) == 0
    assert (finished / "report.html").read_bytes() == page


def test_a_network_that_learned_nothing_is_called_so(inputs: Path, tmp_path: Path) -> None:
    state = load_file(inputs / "w.safetensors")
    save_file(state | {"head.bias": torch.tensor([0.0, 9.0])}, inputs / "flat.safetensors")
    assert command(inputs, tmp_path / "flat", "flat.safetensors") == 6
    said = json.loads((tmp_path / "flat" / "solution.json").read_text())
    assert said["outcome"] == "did not learn a program"
    assert said["reason"].startswith("collapsed")


def test_a_network_that_memorised_is_called_so(inputs: Path) -> None:
    """Its answers follow the table of what it was trained on, and chance elsewhere."""
    g = np.random.default_rng(0)
    trained = by_hash(unlabelled(GRID), "half", (1, 1))[0]
    answers = g.integers(0, 2, len(GRID))
    answers[trained] = TRUTH[trained]
    table = torch.nn.Embedding.from_pretrained(torch.eye(2)[torch.from_numpy(answers)])

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table(x[:, 0] * 17 + x[:, 1])

    problem = make_problem(
        load(Table()),
        unlabelled(GRID),
        trained_on=unlabelled(GRID[trained]),
        truth=TRUTH,
        truth_trained_on=TRUTH[trained],
    )
    assert len(problem.data) == len(GRID) - len(trained)
    said = solve(problem).solution
    assert said.outcome == "did not learn a program"
    assert said.reason.startswith("memorised")


@pytest.mark.parametrize(
    "x", [np.zeros((5, 2), int), np.zeros((30, 1), int), np.full((30, 2), -1), np.full((30, 2), 0.5), np.zeros(30)]
)
def test_data_of_another_kind_are_refused(x: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"x is|inputs|whole numbers"):
        unlabelled(x)


def test_parts_by_hash_are_apart_and_cover_all() -> None:
    doubled = unlabelled(np.concatenate([GRID, GRID]))
    parts = by_hash(doubled, "salt", (0.6, 0.4))
    assert sorted(np.concatenate(parts)) == list(range(2 * len(GRID)))
    rows = [{tuple(GRID[row % len(GRID)]) for row in part} for part in parts]
    assert not rows[0] & rows[1]
