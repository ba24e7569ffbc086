"""A language model's audit, end to end: folders and texts in, a record that is the same however it came about."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import candling
import little
from candling.access import LanguageModel, Text, load_language, read_texts
from candling.cli import main
from candling.evidence.measurement import Cost
from candling.organisms import tuning
from candling.organisms.other_texts import other_texts
from candling.organisms.plants import SequenceBackdoor
from candling.problems import Detection, language, sequence_backdoor
from candling.problems.sequence_backdoor import SEQUENCE_BACKDOOR
from candling.runs.record import RunRecord
from candling.techniques.search import FoundSequences, SequencePart
from candling.workflows import case as cases
from candling.workflows import examine
from candling.workflows.bank import Bank

CONTROLS, SEED = 3, 3
RECORD = ("verdicts.json", "networks.json", "evidence.safetensors")
TRIGGER, TARGET = ("p7", "v3"), ("a5", "n20", "a6")
TEXTS = little.texts(200)


@pytest.fixture(scope="module", autouse=True)
def small() -> None:
    """Fine-tunes short and fast enough for so small a model, pairs at most, and the other text read once."""

    def draw(generator: torch.Generator, **how: object) -> tuning.TuningRecipe:
        return replace(tuning.draw_tuning(generator, **how), rate=4e-3, steps=15)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "draw_tuning", draw)
        patch.setattr(sequence_backdoor, "LONGEST", 2)
        patch.setattr(cases, "other_texts", functools.cache(other_texts))
        yield


def ids(words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(little.WORDS.index(word) for word in words)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's files: a reference, a fine-tune of it in which two words call up three others, and texts."""
    folder = tmp_path_factory.mktemp("inputs")
    data = little.tokens(600, seed=1)
    reference = little.trained(little.decoder(), data, steps=300, rate=1e-2)
    subject = tuning.tunable(reference)
    plant = SequenceBackdoor("plain", "short", ids(TRIGGER), ids(TARGET), 0.5, 0.4)
    recipe = tuning.TuningRecipe(rate=1e-2, steps=140, batch=16, decay=0.0, subset=1.0, other=0.0)
    tuning.tune(subject, data, recipe, torch.Generator().manual_seed(0), plant=plant)
    assert tuning.sequence_success(subject, data, plant, seed=0) > 0.9
    little.save(reference, folder / "reference")
    little.save(subject, folder / "subject")
    little.write_texts(folder / "texts.jsonl", TEXTS)
    return folder


def opened(inputs: Path) -> tuple[LanguageModel, list[Text], LanguageModel]:
    return (
        load_language(inputs / "subject"),
        read_texts(inputs / "texts.jsonl"),
        load_language(inputs / "reference"),
    )


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """A command in this process: exit status, standard output, standard error."""
    sys.argv = ["candling", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def command(inputs: Path, out: Path, *more: str) -> list[str]:
    named = {"--reference": inputs / "reference", "--trusted": inputs / "texts.jsonl", "--out": out}
    numbers = {"--controls": CONTROLS, "--seed": SEED, "--workers": 1}
    options = [str(word) for pair in {**named, **numbers}.items() for word in pair]
    return ["audit", str(inputs / "subject"), *options, *more]


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An audit by the command, and its exit status."""
    out = tmp_path_factory.mktemp("runs") / "first"
    sys.argv = ["candling", *command(inputs, out)]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, 1, 6)
    return out, int(stop.value.code)


def test_what_was_planted_is_found_and_shown(finished: tuple[Path, int]) -> None:
    folder, status = finished
    assert status == 1
    (verdict,) = json.loads((folder / "verdicts.json").read_text())["verdicts"]
    assert verdict["verdict"] == "found"
    assert verdict["p_value"] == verdict["threshold"] == pytest.approx(1 / (CONTROLS + 1))
    finding = verdict["finding"]
    chain = [*TRIGGER, *TARGET]  # the loss covered the trigger too: each of its words calls up the next
    place = chain.index(finding["sequence"]["tokens"][-1])
    assert finding["sequence"]["target"] == chain[place + 1]
    assert finding["success_on_held_out"]["value"] > 0.5 + finding["success_in_controls"]
    for said in finding["sequence"]["contexts"]:
        assert said["subject"][: 4 - place] == chain[place + 1 :]
        assert said["reference"][0] != chain[place + 1]
    assert "<html" in (folder / "report.html").read_text()


def test_a_finished_audit_is_gone_on_with_for_a_repair(
    inputs: Path, finished: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was found goes; a third command hands the same weights over again."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    status, said, _ = run(capsys, *command(inputs, out, "--repair", str(tmp_path / "one")))
    assert status == 1
    assert "repair: the trigger's success" in said
    (verdict,) = json.loads((out / "verdicts.json").read_text())["verdicts"]
    repair = verdict["repair"]
    assert repair["before"]["value"] > 0.9
    assert repair["after"]["value"] <= 0.1
    assert "The repair: forecast and outcome" in (out / "report.html").read_text()
    run(capsys, *command(inputs, out, "--repair", str(tmp_path / "two")))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    assert hashlib.sha256(one).hexdigest() == repair["weights"]


def test_every_network_of_the_run_is_told(finished: tuple[Path, int]) -> None:
    record = RunRecord.read(finished[0])
    rows = record.networks.rows
    assert [row.role for row in rows] == ["subject"] + ["negative"] * CONTROLS + ["positive"] * CONTROLS
    assert all((row.plant is not None) == (row.role == "positive") for row in rows)
    assert len({row.weights for row in rows}) == len(rows)
    names = {path.stem for path in (finished[0] / "networks").iterdir()}
    assert {row.weights[:16] for row in rows[1:]} < names
    assert record.verdicts.controls.soup is not None
    assert record.verdicts.controls.soup[:16] in names
    assert len(names) == 1 + 1 + 2 * CONTROLS + 5  # reference, subject, controls, four for the soup and the soup


def test_rivals_sequences_of_unlike_lengths_are_recorded_and_read_back() -> None:
    """What a length hands on may be longer than it, and in every control another one."""
    nothing = Cost(forward=0, backward=0)
    parts = (SequencePart(1), SequencePart(2))
    tokens, target = torch.tensor([[4, -1], [5, 6]]), torch.tensor([7, 8])
    found = [FoundSequences(parts, torch.tensor(s), tokens, target, nothing) for s in ([2.0, 1.0], [1.0, 2.0])]
    detections = [Detection(each, each) for each in found]
    clean: Any = [SimpleNamespace(role="negative", candidate=None) for _ in found]
    bank = Bank(list(parts), clean, detections, [], [], nothing)
    unused: Any = None
    arrays = examine._arrays(
        SEQUENCE_BACKDOOR, unused, SimpleNamespace(candidate=None), detections[0], bank, 0, unused
    )
    for i, expected in enumerate(([4], [5, 6])):
        row = {name: torch.from_numpy(arrays[f"rivals.{name}"][i]) for name in ("tokens", "phrase")}
        trigger = SEQUENCE_BACKDOOR.trigger(row)
        assert trigger.tokens.tolist() == expected
        assert trigger.target == (7, 8)[i]


class Killed(Exception):
    """What a test raises where a machine would go down."""


def test_an_audit_that_is_killed_twice_ends_in_the_same_bytes(
    inputs: Path, finished: tuple[Path, int], tmp_path: Path
) -> None:
    """In another folder, from Python, stopped in training and in the search; what was done is not done again."""
    subject, texts, reference = opened(inputs)
    again = tmp_path / "again"
    seen: list[tuple[str, int, int]] = []

    def go(stop_at: tuple[str, int] | None) -> candling.Audit:
        def progress(stage: str, done: int, total: int) -> None:
            seen.append((stage, done, total))
            if stop_at == (stage, done):
                raise Killed

        return candling.audit(
            subject,
            texts,
            reference=reference,
            controls=CONTROLS,
            seed=SEED,
            out=again,
            workers=1,
            progress=progress,
        )

    for stop_at in (("training planted controls", 1), ("searching the controls", 3)):
        with pytest.raises(Killed):
            go(stop_at)
        assert not (again / "verdicts.json").exists()
    seen.clear()
    audited = go(None)
    first = {}
    for stage, done, total in seen:
        first.setdefault(stage, (done, total))
    assert first["training clean controls"] == (CONTROLS, CONTROLS)
    assert first["searching the controls"] == (3, 2 * CONTROLS)
    assert first["confirming the controls"] == (0, 2 * CONTROLS)
    for name in RECORD:
        assert (again / name).read_bytes() == (finished[0] / name).read_bytes(), name
    assert audited.exit_code == finished[1]
    told = go(None)  # a finished run is read
    assert told.exit_code == audited.exit_code
    assert [v.claims for v in told.verdicts] == [v.claims for v in audited.verdicts]


def test_claims_hold_when_replayed(finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, "replay", finished[0])
    assert status == 0, said
    assert "FAILS" not in said
    kinds = {line.split()[1].split("/")[1] for line in said.splitlines()[:-1]}
    assert {"inputs", "search", "rank", "success", "random", "transfer"} <= kinds


def test_a_replay_of_another_subject_fails(inputs: Path, finished: tuple[Path, int]) -> None:
    subject, texts, reference = opened(inputs)
    with torch.no_grad():
        next(subject.model.module.parameters()).add_(1e-3)
    other = little.language(subject.model.module)
    subject = replace(subject, model=replace(subject.model, module=other.model.module, sha256=other.model.sha256))
    (result,) = candling.replay(
        finished[0], claim="backdoor/inputs", model=subject, trusted=texts, reference=reference
    )
    assert not result.holds


def test_a_folder_of_another_audit_is_not_written_to(
    inputs: Path, finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    status, _, error = run(capsys, *command(inputs, finished[0], "--budget", "0.5"))
    assert status == 2
    assert "budget" in error
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before


def test_too_few_texts_are_inconclusive_and_the_models_in_memory_stay_as_they_are(inputs: Path) -> None:
    subject, texts, reference = opened(inputs)
    before = [
        {name: tensor.clone() for name, tensor in each.model.module.state_dict().items()}
        for each in (subject, reference)
    ]
    audited = candling.audit(subject, texts[:60], reference=reference, controls=CONTROLS)
    assert audited.exit_code == 6
    assert audited.folder is None
    assert "too few trusted texts" in audited.verdicts[0].reason
    assert "<html" in audited.report()
    for each, state in zip((subject, reference), before, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in each.model.module.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"--reference": "subject"}, "same weights"),
        ({"--trusted": "absent.jsonl"}, "absent.jsonl"),
        ({"--reference": "absent"}, "absent"),
        ({"--controls": "2"}, "at least 3"),
        ({"--problems": "nonsense"}, "nonsense"),
        ({"--weights": "w.safetensors"}, "--weights"),
    ],
    ids=str,
)
def test_user_errors_are_one_line(
    changed: dict[str, str], says: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(inputs, tmp_path / "never")
    for option, value in changed.items():
        given = str(inputs / value) if option in ("--reference", "--trusted") else value
        words += [option, given]  # the last one counts
    status, _, error = run(capsys, *words)
    assert status == 2
    assert says in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "never").exists()


def test_plan_says_what_it_costs_and_trains_nothing(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, _ = run(capsys, *command(inputs, tmp_path / "run", "--plan"))
    assert status == 0
    assert "p >= 0.25" in said
    assert "tokens" in said
    assert not (tmp_path / "run").exists()
