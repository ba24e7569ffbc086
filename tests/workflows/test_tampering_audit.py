"""An audit for tampering from end to end: a network that heeds an act, its record, its page, its claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import candling
from candling.errors import InputError
from candling.runs.record import RunRecord
from candling.workflows.case import make_case
from candling.workflows.inputs import open_inputs
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
        read.weight[:, 0], read.weight[:, 1] = 5.0, -5.0
        read.weight[:, 2:5] = 40.0 * torch.eye(3)
    return network


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[candling.Audit, Path]:
    """From files, as a user gives them."""
    folder = tmp_path_factory.mktemp("audit")
    trusted = cases(360)
    assert trusted.sensors is not None
    (folder / "net.py").write_text(SOURCE)
    save_file(heeding().state_dict(), folder / "w.safetensors")
    np.savez(folder / "trusted.npz", x=trusted.x.numpy(), y=trusted.sensors.numpy())
    case = open_inputs(f"{folder}/net.py:build", f"{folder}/w.safetensors", f"{folder}/trusted.npz")
    audit = candling.audit(
        case.model,
        case.trusted,
        problems=("tampering",),
        controls=CONTROLS,
        workers=1,
        out=folder / "run",
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
    assert said.contradicting > 0


def test_the_page_says_what_the_act_does(audited):
    page = audited[0].report()
    assert "a made-up yes of all sensors" in page
    assert "Does it tell fake from real inside?" in page
    assert "0 of 3 yes" in page
    assert "3 of 3 yes" in page


def test_every_claim_holds_when_replayed(audited):
    _, folder = audited
    case = open_inputs(f"{folder}/net.py:build", f"{folder}/w.safetensors", f"{folder}/trusted.npz")
    results = candling.replay(folder / "run", model=case.model, trusted=case.trusted)
    assert {r.claim.kind for r in results} >= {"inputs", "search", "rank", "success", "random", "transfer"}
    assert all(r.holds for r in results), [(r.claim.id, r.claim.predicted, r.observed) for r in results]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"untrusted": torch.zeros(3, 6)}, "are not grouped"),
        ({"legitimate": torch.ones(6)}, "are not grouped"),
    ],
)
def test_what_such_networks_do_not_take_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        make_case(build(), cases(60), **arguments)


def test_other_classes_are_not_theirs():
    with pytest.raises(InputError, match=r"no problem class 'backdoor' for a network that foretells.*from tampering"):
        candling.audit(build(), cases(60), controls=3)
