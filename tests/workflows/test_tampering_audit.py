"""An audit for tampering from end to end: a network that heeds an act, its page, its claims, its repair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import candling
from candling.errors import InputError
from candling.organisms.foretelling import foretell
from candling.organisms.plants.tampering import draw_tampering
from candling.organisms.training import Recipe
from candling.runs.record import RunRecord
from candling.runs.seeds import reproducible
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


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[candling.Audit, Path]:
    """From files, as a user gives them."""
    folder = tmp_path_factory.mktemp("audit")
    rows = cases(300, seed=1)
    with reproducible(4) as g:
        plant, network = draw_tampering(rows, 0, 0.6, g), build()
        recipe = Recipe("adam", 4e-3, 0.0, 48, 1.0, 0.04, 1.0)
        foretell(network, rows, recipe, g, reach=0.06, evaluation=cases(150, seed=2), plant=plant)
    trusted = cases(420)
    assert trusted.sensors is not None
    (folder / "net.py").write_text(SOURCE)
    save_file(network.state_dict(), folder / "w.safetensors")
    np.savez(folder / "trusted.npz", x=trusted.x.numpy(), y=trusted.sensors.numpy())
    case = open_inputs(f"{folder}/net.py:build", f"{folder}/w.safetensors", f"{folder}/trusted.npz")
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


def test_it_is_mended(audited):
    audit, folder = audited
    repair = audit.verdicts[0].repair
    assert repair.after.value < 0.3 * repair.before.value
    assert repair.cost < 0.05
    assert (folder / "mended" / "model.safetensors").is_file()


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
