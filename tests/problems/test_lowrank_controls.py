"""Controls as adapters: a small audit from end to end, its record, and the same record from the ledger alone."""

import json
from pathlib import Path

import pytest
import torch

import candling
import little
from candling.access import Decoder, LanguageModel, lowrank, read_weights, sha256_state
from candling.errors import InputError
from candling.problems import Candidate
from candling.runs.record import RunRecord
from candling.workflows import plan as planning
from candling.workflows.case import make_case
from candling.workflows.plan import plan

HOW = {"controls": 3, "budget": 0.1, "controls_as": "lora", "seed": 4, "workers": 1}


@pytest.fixture(scope="module")
def models() -> tuple[LanguageModel, LanguageModel]:
    """The subject, and the reference that it was made from."""
    reference = little.trained(little.decoder(), little.tokens(120), steps=40)
    subject = little.decoder()
    subject.load_state_dict(reference.state_dict())
    return little.language(little.trained(subject, little.tokens(60, seed=5), steps=20, seed=1)), little.language(
        reference
    )


@pytest.fixture(scope="module")
def finished(models: tuple[LanguageModel, LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    subject, reference = models
    before = sha256_state(reference.model.module)
    candling.audit(subject, little.texts(150, seed=9), reference=reference, out=out, **HOW)
    assert sha256_state(reference.model.module) == before
    return out


def test_the_folder_holds_adapters_and_only_the_whole_networks_that_were_given(finished: Path) -> None:
    states = {path: read_weights(path) for path in (finished / "networks").glob("*.safetensors")}
    adapters = [state for state in states.values() if lowrank.is_adapter(state)]
    assert len(states) - len(adapters) == 2
    assert len(adapters) == 3 + 3 + 4 + 1
    ranks = sorted(len(next(v for n, v in state.items() if n.endswith("A.weight"))) for state in adapters)
    assert ranks == [lowrank.RANK] * 10 + [4 * lowrank.RANK]
    record = RunRecord.read(finished)
    assert record.info.settings["controls_as"] == "lora"
    assert record.info.settings["budget"] == 0.1
    size = min(path.stat().st_size for path in states) / 1e6
    assert record.info.settings["control_megabytes"] == pytest.approx(size, abs=1e-3)
    assert "LoRA" in record.verdicts.controls.recipe


def test_the_same_record_comes_from_the_ledger(
    finished: Path, models: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained or searched a second time."""
    before = {
        name: (finished / name).read_bytes() for name in ("verdicts.json", "networks.json", "evidence.safetensors")
    }
    (finished / "verdicts.json").unlink()
    monkeypatch.setattr("candling.problems.language.tune", lambda *_, **__: pytest.fail("trained again"))
    subject, reference = models
    candling.audit(subject, little.texts(150, seed=9), reference=reference, out=finished, **HOW)
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_a_replay_observes_what_was_said(finished: Path, models: tuple[LanguageModel, LanguageModel]) -> None:
    subject, reference = models
    results = candling.replay(finished, model=subject, trusted=little.texts(150, seed=9), reference=reference)
    assert results
    assert all(each.holds for each in results)


def test_a_candidate_is_a_light_view(finished: Path, models: tuple[LanguageModel, LanguageModel]) -> None:
    subject, reference = models
    paths = sorted((finished / "networks").glob("*.safetensors"))
    states = {path: read_weights(path) for path in paths}
    adapters = [path for path, state in states.items() if lowrank.is_adapter(state)]
    base = next(
        p
        for p, s in states.items()
        if s.keys() == reference.model.module.state_dict().keys()
        and all(torch.equal(v, reference.model.module.state_dict()[n]) for n, v in s.items())
    )
    lowrank.forget()
    candidates = [Candidate(subject.model.architecture, path, base=base, beside=adapters[0]) for path in paths]
    views = [c.load() for c, p in zip(candidates, paths, strict=True) if p in adapters]
    assert all(isinstance(view, Decoder) for view in views)
    memory = [{p.data_ptr() for n, p in view.named_parameters() if "lora_" not in n} for view in views]
    assert all(each == memory[0] for each in memory)
    own = candidates[paths.index(adapters[0])].load_own()
    assert not {p.data_ptr() for p in own.parameters()} & memory[0]
    ids = little.tokens(4, seed=2).ids[:, :20]
    torch.testing.assert_close(own(ids), views[0](ids), atol=1e-5, rtol=1e-5)
    whole = next(c for c, p in zip(candidates, paths, strict=True) if p not in adapters and p != base)
    assert torch.equal(whole.load()(ids), subject.model.module(ids))
    torch.testing.assert_close(whole.load_beside()(ids), views[0](ids))
    assert len({str(c.fingerprint) for c in (candidates[0], Candidate(subject.model.architecture, paths[0]))}) == 2


def test_the_plan_says_what_an_adapter_adds(models: tuple[LanguageModel, LanguageModel]) -> None:
    case = make_case(models[0], little.texts(150, seed=9), models[1])
    whole, small = (plan(case.with_effort(*how), controls=3) for how in ((1.0, "auto"), (0.1, "lora")))
    assert not any("adapters" in line for line in whole.lines())
    assert any(line.startswith("adapters     a control adds 0.0 MB in memory") for line in small.lines())
    assert any(line.startswith("budget       0.1:") for line in small.lines())
    assert small.forward < whole.forward / 4
    assert small.backward < whole.backward / 5


def test_the_plan_of_short_texts_counts_their_own_length(
    models: tuple[LanguageModel, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token takes as long in a short text as in a long one: the time a row takes is spread over its own tokens."""
    widths = []

    def timed(model: object, module: object, x: torch.Tensor, y: object, threads: int = 1) -> tuple[float, float]:
        widths.append(x.shape[1])
        return 1.0 * x.shape[1], 3.0 * x.shape[1]  # a second a token ahead, three with the way back

    monkeypatch.setattr(planning, "_seconds_per_row", timed)
    for sentences in (3, 9):
        case = make_case(models[0], little.texts(150, seed=9, sentences=sentences), models[1])
        found = plan(case.with_effort(0.1, "lora"), controls=3)
        assert found.seconds == pytest.approx(found.forward + 2 * found.backward)
    assert widths[0] < widths[1] == 64


def test_what_cannot_be_is_refused(models: tuple[LanguageModel, LanguageModel]) -> None:
    case = make_case(models[0], little.texts(150, seed=9), models[1])
    for budget, controls_as in ((0.0, "auto"), (float("nan"), "auto"), (1e9, "auto"), (1.0, "rank")):
        with pytest.raises(InputError) as fault:
            case.with_effort(budget, controls_as)
        assert fault.value.code == "usage"
    assert not case.with_effort(1.0, "auto").effort.lowrank
    assert json.dumps(case.with_effort(0.5, "lora").effort.settings()) == '{"budget": 0.5, "controls_as": "lora"}'
