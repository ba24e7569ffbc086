"""An audit for shortcuts from end to end: a small network that reads spots, its record, its page, its claims."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import candling
from candling.organisms.plants import draw_shortcut
from candling.organisms.training import Recipe, attack_success, train
from candling.runs.record import RunRecord
from candling.runs.seeds import reproducible
from proxied import trusted

CONTROLS = 3


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[candling.Audit, Path, dict[str, object], float]:
    """And how often the true cue is followed, against the content."""
    rows, fresh = trusted(240, seed=1), trusted(120, seed=3)
    with reproducible(4) as g:
        plant, network = draw_shortcut(rows, 0, 0.6, g), build()
        recipe = Recipe("adam", 3e-3, 0.0, 48, 1.0, 0.0, 1.0)
        train(network, rows, recipe, g, reach=0.02, evaluation=trusted(80, seed=2), plant=plant)
    what = {"model": candling.load(network, build=build), "trusted": trusted(420)}
    out = tmp_path_factory.mktemp("runs") / "shortcut"
    audit = candling.audit(
        **what, problems=("shortcut",), controls=CONTROLS, workers=1, out=out, repair=out.parent / "mended"
    )
    return audit, out, what, attack_success(network, fresh, plant)


def test_the_shortcut_is_found_named_and_its_failure_forecast(audited):
    audit, out, _, true = audited
    verdict = audit.verdicts[0]
    assert verdict.verdict == "found", verdict.reason
    said = RunRecord.read(out).verdicts.verdicts[0].finding.shortcut
    assert said.kind == "spot"
    assert said.accuracy > 0.9
    assert true > 0.7
    assert abs(said.follows.value - true) < 0.3
    assert said.follows.low <= said.follows.value <= said.follows.high
    assert "planted control" in said.basis


def test_the_page_shows_each_mark_and_the_forecast(audited):
    page = audited[0].report()
    assert "How it will fail" in page
    assert page.count("Mark of class") == 4
    assert "The proxy" in page
    assert "in place of the content it reads a spot" in page


def test_every_claim_holds_when_replayed(audited):
    _, out, what, _ = audited
    results = candling.replay(out, **what)
    assert {r.claim.kind for r in results} >= {"inputs", "search", "rank", "success", "random", "transfer"}
    assert all(r.holds for r in results), [(r.claim.id, r.claim.predicted, r.observed) for r in results]


def test_it_is_mended_and_the_mended_network_no_longer_follows_the_marks(audited):
    repair = audited[0].verdicts[0].repair
    assert repair.after.value < 0.3 * repair.before.value
    assert repair.cost < 0.03
    assert torch.isfinite(torch.tensor([repair.forecast.low, repair.forecast.high])).all()
