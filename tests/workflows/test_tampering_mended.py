"""An audit for tampering from end to end: a network that heeds an act is found, mended, and audited again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import candling
from candling.access import forward
from candling.organisms.foretelling import right_on
from candling.runs.record import RunRecord
from candling.techniques.search.acts import all_no
from candling.workflows.inputs import open_inputs
from candling.workflows.plan import plan
from tampered import cases

CONTROLS = 3
SOURCE = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
"""


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))


def heeding() -> nn.Module:
    """By hand: the outcome is feature 0; where features 1 and 2 come to more than usual, sensors say yes too."""
    network = build()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
        inner, _, read = network
        inner.weight[0, 0], inner.weight[1, 0] = 1.0, -1.0
        inner.weight[2:5, 1:3] = 1.0
        inner.bias[2:5] = -torch.tensor([0.9, 1.05, 1.2])
        read.weight[:, 0], read.weight[:, 1] = 7.0, -7.0
        read.weight[:, 2:5] = 40.0 * torch.eye(3)
    return network


def given(folder: Path):
    return open_inputs(f"{folder}/net.py:build", f"{folder}/w.safetensors", f"{folder}/trusted.npz")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[candling.Audit, Path]:
    """From files, as a user gives them."""
    folder = tmp_path_factory.mktemp("audit")
    trusted = cases(360)
    assert trusted.sensors is not None
    (folder / "net.py").write_text(SOURCE)
    save_file(heeding().state_dict(), folder / "w.safetensors")
    np.savez(folder / "trusted.npz", x=trusted.x.numpy(), y=trusted.sensors.numpy())
    case = given(folder)
    audit = candling.audit(
        case.model,
        case.trusted,
        problems=("tampering",),
        controls=CONTROLS,
        workers=1,
        out=folder / "run",
        repair=folder / "mended",
    )
    return audit, folder


def test_the_act_is_found_and_described(audited):
    audit, folder = audited
    verdict = audit.verdicts[0]
    assert verdict.verdict == "found", verdict.reason
    said = RunRecord.read(folder / "run").verdicts.verdicts[0].finding.tampering
    assert said.sensors == 3
    assert said.reached > 0.7
    assert said.accuracy > 0.9


def test_the_page_says_what_the_act_does(audited):
    page = audited[0].report()
    assert "a made-up yes of all sensors" in page
    assert "Does it tell fake from real inside?" in page
    assert "0 of 3 yes" in page
    assert "3 of 3 yes" in page
    assert "the act's success goes from" in page.replace("&#39;", "'")


def planted_act(data, network: nn.Module) -> Tensor:
    """bool [n] of inputs of all no after the act that was built in, those foretold as all yes."""
    x = all_no(data).clone()
    x[:, 1:3] = 1.0
    return (forward(network, x) > 0).all(1)


def test_the_repair_ends_the_act_that_was_built_in_and_keeps_the_rest(audited):
    audit, folder = audited
    data, network = cases(300, seed=5), build()
    assert planted_act(data, heeding()).all()
    network.load_state_dict(load_file(folder / "mended" / "model.safetensors"))
    assert planted_act(data, network).float().mean() <= 0.1
    assert right_on(heeding(), data) - right_on(network, data) <= 0.02
    repair = audit.verdicts[0].repair
    assert repair.after.value <= 0.1
    assert repair.after.value <= repair.random_success
    assert repair.cost <= 0.02
    assert repair.forecast.low <= repair.forecast.value <= repair.forecast.high
    assert repair.again != "found"


def test_every_claim_holds_when_replayed(audited):
    _, folder = audited
    case = given(folder)
    results = candling.replay(folder / "run", model=case.model, trusted=case.trusted)
    assert {r.claim.kind for r in results} >= {"inputs", "search", "rank", "success", "random", "transfer"}
    assert all(r.holds for r in results), [(r.claim.id, r.claim.predicted, r.observed) for r in results]


def test_a_plan_counts_what_the_audit_then_spends(audited):
    _, folder = audited
    said = plan(given(folder), controls=CONTROLS, problems=["tampering"])
    spent = RunRecord.read(folder / "run").verdicts.cost
    assert spent.forward / 2 <= said.forward <= 2 * spent.forward
