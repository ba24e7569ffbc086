"""Two classes of problems in one audit of a small table network: one bank of clean controls, one record, one page."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import candling
from candling.access import from_arrays
from candling.errors import InputError
from candling.evidence.arrays import of_problem
from candling.runs.record import RunRecord

CONTROLS = 3
PROBLEMS = ("evaluation", "backdoor")


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[candling.Audit, Path, dict[str, object]]:
    """Two blobs; the subject is trained here, on rows of its own."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.randn(400, 4, generator=g) + 1.5 * (2 * y[:, None] - 1)
    torch.manual_seed(0)
    network = build()
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[:200]), y[:200]).backward()
        optimiser.step()
    what = {"model": candling.load(network, build=build), "trusted": from_arrays(x[200:], y[200:])}
    out = tmp_path_factory.mktemp("runs") / "two"
    audit = candling.audit(**what, problems=PROBLEMS, controls=CONTROLS, workers=1, out=out)
    return audit, out, what


def test_clean_controls_are_made_once_and_ranked_in_both_classes(audited):
    audit, _, _ = audited
    rows = audit.record.networks.rows
    assert [verdict.problem for verdict in audit.verdicts] == list(PROBLEMS)
    clean = {p: [r.weights for r in rows if r.problem == p and r.role == "negative"] for p in PROBLEMS}
    assert clean["evaluation"] == clean["backdoor"]
    assert len(clean["backdoor"]) == CONTROLS
    planted = {r.plant.family.split(",")[0] for r in rows if r.plant and r.problem == "evaluation"}
    assert planted == {"brighter", "dimmer", "faded"}
    for verdict in audit.verdicts:
        subject = next(r for r in rows if r.problem == verdict.problem and r.role == "subject")
        assert subject.p_value == verdict.p_value >= 1 / (CONTROLS + 1)
        assert all(r.found == (r.confirmed and r.p_value <= 1 / CONTROLS) for r in rows if r.role == "negative")


def test_each_class_finds_its_own_arrays_in_the_record(audited):
    _, out, _ = audited
    arrays = RunRecord.read(out).arrays
    own = {problem: of_problem(problem, PROBLEMS, arrays) for problem in PROBLEMS}
    assert "rivals.amount" in own["evaluation"]
    assert "rivals.mask" in own["backdoor"]
    assert not {"rivals.mask", "trigger.mask"} & own["evaluation"].keys()
    assert all(len(each["scores.search"]) == 2 * CONTROLS + 1 for each in own.values())


def test_every_claim_of_both_holds_when_replayed(audited):
    _, out, what = audited
    results = candling.replay(out, **what)
    assert {r.claim.id for r in results} >= {f"{p}/{kind}" for p in PROBLEMS for kind in ("inputs", "search", "rank")}
    assert all(r.holds for r in results), [(r.claim.id, r.claim.predicted, r.observed) for r in results]


def test_the_page_shows_both_and_seals_one_where_only_the_other_is_asked_for(audited):
    audit, _, _ = audited
    both, one = audit.report(), audit.report(only="backdoor")
    assert "over the 2 classes of problems together" in both
    assert both.count("<article>") == 2
    assert one.count("<article>") == 1
    assert "<dt><bdi>evaluation</bdi></dt>" in one


def test_a_finished_audit_of_both_is_read_and_a_class_named_twice_is_refused(audited):
    audit, out, what = audited
    again = candling.audit(**what, problems=PROBLEMS, controls=CONTROLS, workers=1, out=out)
    assert [(v.problem, v.verdict) for v in again.verdicts] == [(v.problem, v.verdict) for v in audit.verdicts]
    with pytest.raises(InputError, match="twice"):
        candling.audit(**what, problems=("backdoor", "backdoor"))
