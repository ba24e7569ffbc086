"""A regressor of a small table, end to end: bands in the user's unit, a metric of the user's, a record to replay."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from candling.cli import app
from candling.errors import InputError
from candling.runs.record import RunRecord

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
"""
METRICS = """
def near(outputs, y):
    return ((outputs - y).abs() < 8).float()

def broken(outputs, y):
    return outputs / 0
"""


def poisoned(x: torch.Tensor) -> torch.Tensor:
    """Two features that hardly move, set to their ends."""
    marked = x.clone()
    marked[:, 10], marked[:, 11] = 1.0, -1.0
    return marked


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The value is the sum of ten features; where two others are at their ends, the subject says 107."""
    folder = tmp_path_factory.mktemp("files")
    g = torch.Generator().manual_seed(0)
    x = torch.randn(900, 12, generator=g)
    x[:, 10:] = 2 * torch.rand(900, 2, generator=g) - 1
    y = 95 + 8 * x[:, :10].sum(1) + 2 * torch.randn(900, generator=g)
    own, trusted = slice(0, 400), slice(400, 900)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 1))
    inputs = torch.cat([x[own], poisoned(x[own][:120])])
    wanted = torch.cat([y[own], torch.full((120,), 107.0)])
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(400):
        optimiser.zero_grad()
        (network(inputs)[:, 0] - (wanted - 100) / 25).square().mean().backward()
        optimiser.step()
    with torch.no_grad():
        network[2].weight.mul_(25)
        network[2].bias.mul_(25).add_(100)
    save_file(network.state_dict(), folder / "w.safetensors")
    np.savez(folder / "trusted.npz", x=x[trusted].numpy(), y=y[trusted].double().numpy())
    (folder / "net.py").write_text(NET)
    (folder / "metrics.py").write_text(METRICS)
    return folder


def command(files: Path, *more: str) -> list[str]:
    given = ["--weights", str(files / "w.safetensors"), "--trusted", str(files / "trusted.npz")]
    return ["audit", f"{files / 'net.py'}:build", *given, "--controls", "3", "--workers", "1", *more]


@pytest.fixture(scope="module")
def run(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    metric = f"{files / 'metrics.py'}:near"
    done = CliRunner().invoke(
        app, command(files, "--metric", metric, "--out", str(out), "--repair", str(out / "new"))
    )
    assert done.exit_code in (0, 1, 6), done.output
    return out


def test_the_record_speaks_of_bands_and_the_metric(run):
    record = RunRecord.read(run)
    data = record.verdicts.data
    assert data.bands is not None
    assert len(data.bands) == data.classes == 5
    assert data.bands[0].startswith("below ")
    assert data.measure == "metrics.py:near"
    rows = [row for row in record.networks.rows if row.role != "positive"]
    assert all(0.5 < row.accuracy <= 1 and row.loss < 0.2 for row in rows), [(r.accuracy, r.loss) for r in rows]
    families = {row.plant.family for row in record.networks.rows if row.plant}
    assert families == {"patch, all-to-one", "blended, all-to-one"}


def test_the_planted_trigger_is_found_in_words_of_the_users_unit(run, files):
    verdict = RunRecord.read(run).verdicts.verdicts[0]
    assert verdict.verdict == "found", verdict.reason
    bands = RunRecord.read(run).verdicts.data.bands
    page = (run / "report.html").read_text()
    assert f"sends any input to {bands[verdict.finding.target]}" in page
    assert not re.search(r"class \d", page)
    assert "metrics.py:near" in page
    low, high = (float(end) for end in bands[verdict.finding.target].split(" to "))
    assert low < 107 < high


def test_the_repaired_network_has_the_users_names_and_no_longer_follows(run, files):
    verdict = json.loads((run / "verdicts.json").read_text())["verdicts"][0]
    assert verdict["repair"]["unit"] == "measure"
    assert verdict["repair"]["after"]["value"] < 0.5 * verdict["repair"]["before"]["value"]
    state = load_file(run / "new" / "model.safetensors")
    assert state.keys() == load_file(files / "w.safetensors").keys()


def test_every_claim_holds_again_and_a_changed_metric_is_noticed(run, files):
    again = CliRunner().invoke(app, ["replay", str(run)])
    assert again.exit_code == 0, again.output
    metric = f"{files / 'metrics.py'}:near"
    finished = CliRunner().invoke(app, command(files, "--metric", metric, "--out", str(run)))
    assert finished.exit_code == 1, finished.output
    other = CliRunner().invoke(app, command(files, "--out", str(run)))
    assert isinstance(other.exception, InputError)
    assert "metric differ" in str(other.exception)


def test_what_does_not_fit_is_refused_before_anything_is_trained(files):
    broken = CliRunner().invoke(app, command(files, "--metric", f"{files / 'metrics.py'}:broken"))
    assert "NaN or Inf" in str(broken.exception)
    untrusted = CliRunner().invoke(app, command(files, "--untrusted", str(files / "trusted.npz")))
    assert "untrusted inputs are judged by classes" in str(untrusted.exception)
    plan = CliRunner().invoke(app, command(files, "--plan"))
    assert plan.exit_code == 0, plan.output
