"""An explanation end to end: folder and pairs in, a record that is the same each time, a claim that can fail."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import candling
import little
import own_decoder
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.pairs import Pairs, PromptPair, tokenise_pairs
from candling.access.pretrained import LanguageModel
from candling.cli import main
from candling.runs.files import locked
from candling.runs.ledger import Ledger
from candling.techniques.locate.contract import Axis, Scores
from candling.workflows.explain import Explained
from candling.workflows.explain_methods import METHODS
from candling.workflows.explain_parts import alike
from candling.workflows.explain_record import ExplanationRecord

REAL = Path(os.environ.get("CANDLING_REAL", Path(__file__).parents[3] / "shared" / "real"))
RECORD = ("explanation.json", "evidence.safetensors", "report.html")
LARGEST = 30
WORDS = little.KINDS["who"]
LINES = [
    {"clean": f"the {WORDS[i]} v1 the", "corrupt": f"the {WORDS[i + 8]} v1 the", "answer": " p1", "wrong": " p2"}
    for i in range(8)
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    network = little.decoder(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5)  # so that heads attend to something
    little.save(network, folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
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


def explained(inputs: Path, out: Path) -> int:
    return run("explain", inputs / "model", "--pairs", inputs / "pairs.jsonl", "--largest", LARGEST, "--out", out)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "first"
    assert explained(inputs, out) == 0
    return out


def opened(inputs: Path) -> tuple[LanguageModel, list[PromptPair]]:
    return candling.load_language(inputs / "model"), candling.read_pairs(inputs / "pairs.jsonl")


def test_the_record_says_what_the_network_does(inputs: Path, finished: Path) -> None:
    """The behaviour and the claim again, from plain passes of the whole network."""
    model, prompts = opened(inputs)
    said = json.loads((finished / "explanation.json").read_text())
    assert said["behaviour"]["pairs"] == len(LINES)
    assert said["weights"] == model.model.sha256
    assert said["circuit"]["edges"] == len(said["circuit"]["rows"])
    assert said["claims"][1]["predicted"] == said["circuit"]["faithfulness"]
    assert said["difference"] < 1e-4
    pairs = tokenise_pairs(prompts, model.tokenizer, window=model.window).pairs
    rows = torch.arange(len(pairs))
    right = []
    for tokens, sign in ((pairs.clean, 1), (pairs.corrupt, -1)):
        logits = model.model.module(tokens)[rows, pairs.last]
        right.append(sign * (logits[rows, pairs.answer] - logits[rows, pairs.wrong]) > 0)
    assert said["behaviour"]["right"] == pytest.approx(float((right[0] & right[1]).double().mean()), abs=1e-5)


def slowly(anatomy: Anatomy, pairs: Pairs, *, by_head: bool) -> torch.Tensor:
    """Shares of the gap by whole passes with one part replaced: [layers, heads] or [layers, positions]."""
    rows = torch.arange(len(pairs))

    def metric(x: torch.Tensor) -> torch.Tensor:
        logits = anatomy.unembed(x)[rows, pairs.last]
        return (logits[rows, pairs.answer] - logits[rows, pairs.wrong]).mean()

    def passed(layer: int, part: int | None) -> torch.Tensor:
        x, given = anatomy.embed(pairs.corrupt), anatomy.embed(pairs.clean)
        for at, block in enumerate(anatomy.blocks):
            if at == layer and part is not None and not by_head:
                x = x.clone()
                x[:, part] = given[:, part]
            mixed, other = (block.attention.mixed(block.attention_norm(s)) for s in (x, given))
            if at == layer and part is not None and by_head:
                mixed = mixed.clone()
                mixed[:, part] = other[:, part]
            x, given = x + block.attention.join(mixed), given + block.attention.join(other)
            assert block.mlp is not None
            x, given = (s + block.mlp(block.mlp_norm(s)) for s in (x, given))
        return metric(given if part is None else x)

    clean = passed(0, None)
    plain = anatomy.embed(pairs.corrupt)
    for block in anatomy.blocks:
        plain = block(plain)
    corrupt = metric(plain)
    parts = anatomy.blocks[0].attention.heads if by_head else pairs.length
    table = [[passed(layer, part) for part in range(parts)] for layer in range(anatomy.depth)]
    return (torch.tensor(table) - corrupt) / (clean - corrupt)


def test_the_maps_are_exact(inputs: Path, finished: Path) -> None:
    model, prompts = opened(inputs)
    anatomy = dissect(model.model.module).anatomy  # type: ignore[arg-type]
    pairs = tokenise_pairs(prompts, model.tokenizer, window=model.window).pairs
    arrays = ExplanationRecord.read(finished).arrays
    with torch.no_grad():
        heads, residual = (slowly(anatomy, pairs, by_head=by_head) for by_head in (True, False))
    np.testing.assert_allclose(arrays["heads"], heads, atol=1e-3)
    np.testing.assert_allclose(arrays["residual"], residual[:, pairs.first :], atol=1e-3)
    assert arrays["residual"][0, 0] == pytest.approx(1, abs=1e-3)  # the name is all that differs at the bottom


def test_the_same_inputs_give_the_same_bytes(inputs: Path, finished: Path, tmp_path: Path) -> None:
    assert explained(inputs, tmp_path / "again") == 0
    for name in RECORD[:2]:
        assert (finished / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_finished_run_is_read_and_an_altered_one_is_made_again(
    inputs: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (finished / name).read_bytes() for name in RECORD[:2]}
    with monkeypatch.context() as patch:
        patch.setattr("candling.workflows.explain._run", None)
        assert explained(inputs, finished) == 0
    (finished / "explanation.json").write_text("{}")
    assert explained(inputs, finished) == 0
    assert {name: (finished / name).read_bytes() for name in RECORD[:2]} == before


def test_replay_opens_the_pairs_where_they_are_now(inputs: Path, finished: Path, tmp_path: Path) -> None:
    moved, fewer = tmp_path / "moved.jsonl", tmp_path / "fewer.jsonl"
    moved.write_text((inputs / "pairs.jsonl").read_text())
    fewer.write_text("".join(moved.read_text().splitlines(keepends=True)[:-1]))
    claim = ("--claim", "explain/inputs")
    assert [run("replay", finished, *claim, "--pairs", path) for path in (moved, fewer)] == [0, 1]
    assert run("replay", finished, *claim, "--reference", moved) == 2


def test_claims_hold_when_replayed_and_one_changed_weight_makes_them_fail(
    inputs: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("replay", finished) == 0
    assert "2 of 2 claims hold" in capsys.readouterr().out
    model, prompts = opened(inputs)
    changed = tmp_path / "changed"
    little.save(little.decoder(0), changed)
    state = load_file(inputs / "model" / "model.safetensors")
    values = [name for name in state if name.endswith("v_proj.weight")]
    state[values[0]][0, 0] += 1e-3
    save_file(state, changed / "model.safetensors")
    again = candling.replay(finished, model=candling.load_language(changed), pairs=prompts)
    assert {each.claim.kind: each.holds for each in again}["inputs"] is False
    for name in values:
        state[name] = state[name].flip(0)
    save_file(state, changed / "model.safetensors")
    broken = candling.replay(finished, model=candling.load_language(changed), pairs=prompts)
    assert not any(each.holds for each in broken)
    assert all(each.holds for each in candling.replay(finished, model=model, pairs=prompts))
    assert not candling.replay(finished, model=model, pairs=prompts[:-1])[0].holds


def rows(folder: Path) -> int:
    """Of the ledger's jobs."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as connection:
        return int(connection.execute("SELECT count(*) FROM jobs").fetchone()[0])


def killed(inputs: Path, out: Path, when: int) -> int:
    """The signal that ended a child, which the system kills as it is about to record once more than `when` times."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        done, counted = Ledger.done, count()

        def record(self: Ledger, *given: Any) -> None:
            if next(counted) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            done(self, *given)

        Ledger.done = record  # type: ignore[method-assign]
        explained(inputs, out)
    finally:
        os._exit(71)


@pytest.mark.parametrize("when", [1, 30])
def test_a_killed_explanation_goes_on_and_ends_in_the_same_bytes(
    inputs: Path, finished: Path, tmp_path: Path, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, total = tmp_path / "run", rows(finished)
    assert killed(inputs, out, when) == -signal.SIGKILL
    assert rows(out) == when < total
    recorded, done = [], Ledger.done
    monkeypatch.setattr(Ledger, "done", lambda self, *given: (recorded.append(given[0]), done(self, *given))[1])
    assert explained(inputs, out) == 0
    assert len(recorded) == total - when
    for name in RECORD[:2]:  # the page says how long it took
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_one_process_a_folder(inputs: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(finished):
        assert explained(inputs, finished) == 75
    assert capsys.readouterr().err.startswith("error[busy]")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoder that no family knows: its file, weights, tokenizer, table, and pairs."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(Path(own_decoder.__file__).read_text())
    torch.manual_seed(3)
    network = own_decoder.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    save_file(network.state_dict(), folder / "w.safetensors")
    (folder / "tokenizer.json").write_text(little.tokenizer().json)
    (folder / "table.json").write_text(json.dumps(own_decoder.LAYOUT))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


OWN = ("--weights", "w.safetensors", "--tokenizer", "tokenizer.json", "--pairs", "pairs.jsonl", "--largest", LARGEST)


def test_a_decoder_of_ones_own_is_explained_by_its_table_and_replayed_from_elsewhere(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    assert run("explain", "net.py:build", *OWN, "--layout", "table.json", "--out", "run") == 0
    said = json.loads((own / "run" / "explanation.json").read_text())
    assert said["difference"] < 1e-5
    assert said["circuit"]["groups"] == [own_decoder.GROUPS] * own_decoder.DEPTH
    assert said["circuit"]["rows"]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run("replay", own / "run") == 0
    assert "2 of 2 claims hold" in capsys.readouterr().out
    moved = tmp_path / "moved.json"
    (own / "tokenizer.json").rename(moved)
    try:
        assert run("replay", own / "run") == 2
        assert run("replay", own / "run", "--tokenizer", "moved.json") == 0
    finally:
        moved.rename(own / "tokenizer.json")


def test_a_table_that_does_not_fit_or_is_not_asked_for_is_one_line(
    own: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    (own / "wrong.json").write_text(json.dumps({**own_decoder.LAYOUT, "rotary_base": 10_000}))
    for arguments, says in (
        (("net.py:build", *OWN, "--layout", "wrong.json"), "differ by"),
        (("net.py:build", *OWN, "--layout", "none.json"), "no such file"),
        (("net.py:build", *OWN), "needs --layout"),
        ((inputs / "model", "--pairs", "pairs.jsonl", "--layout", "table.json"), "leave --layout out"),
    ):
        assert run("explain", *arguments, "--out", "not") == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line
    assert not (own / "not").exists()


def test_the_report_is_drawn_again_from_the_record(finished: Path) -> None:
    drawn = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert run("report", finished) == 0
    assert (finished / "report.html").read_bytes() == drawn
    assert run("report", finished, "--only", "backdoor") == 2


def test_from_python_nothing_is_written_and_the_model_stays_as_it_is(inputs: Path) -> None:
    model, prompts = opened(inputs)
    before = {name: value.clone() for name, value in model.model.module.state_dict().items()}
    drawn = torch.get_rng_state()
    found = candling.explain(model, prompts, largest=LARGEST)
    assert isinstance(found, Explained)
    assert found.folder is None
    assert "candling explanation" in found.report()
    assert all(torch.equal(before[name], value) for name, value in model.model.module.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{}"], "must be"),
        ([json.dumps(LINES[0])], "too few"),
        ([json.dumps({**LINES[0], "corrupt": "the n9"})] * 2, "none of 2"),
        ([json.dumps({**LINES[0], "wrong": " p1 p2"})] * 2, "same token"),
    ],
)
def test_bad_pairs_are_one_line(
    inputs: Path, tmp_path: Path, lines: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "bad.jsonl"
    pairs.write_text("\n".join(lines))
    assert run("explain", inputs / "model", "--pairs", pairs, "--out", tmp_path / "out") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error[")
    assert says in line
    assert not (tmp_path / "out" / "explanation.json").exists()


def test_damage_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "explanation.json").write_bytes((finished / "explanation.json").read_bytes()[:-20])
    assert run("replay", tmp_path) == 2
    assert "explanation.json is damaged" in capsys.readouterr().err


@pytest.mark.skipif(not (REAL / "stories260K").is_dir(), reason="needs the folder of real models")
def test_patching_the_name_of_a_real_model_brings_the_pronoun_back() -> None:
    """As known from elsewhere: nearly all of it at the name in layers 0 to 2, part of it above."""
    model = candling.load_language(REAL / "stories260K")
    prompts = [
        PromptPair(f"One day, {own} went to the park because", f"One day, {other} went to the park because", *said)
        for own, other, said in (("Lily", "Tim", (" she", " he")), ("Tim", "Lily", (" he", " she")))
    ]
    pairs = tokenise_pairs(prompts, model.tokenizer, window=model.window).pairs
    anatomy = dissect(model.model.module).anatomy  # type: ignore[arg-type]
    share = METHODS.residual(anatomy, pairs).share[:, pairs.first]
    assert share[:3].min() > 0.9
    assert 0.3 < share[4] <= share[3] < 1


def test_maps_average_only_pairs_whose_positions_mean_the_same() -> None:
    clean = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 4], [5, 2, 3, 4], [1, 7, 3, 4], [1, 2, 3, 9]])
    corrupt = torch.tensor([[9, 2, 3, 0], [9, 2, 3, 4], [8, 2, 3, 4], [1, 8, 3, 4], [9, 2, 3, 8]])
    pairs = Pairs(clean, corrupt, clean[:, 0], corrupt[:, 0], torch.tensor([2, 3, 3, 3, 3]))
    assert alike(pairs).clean.tolist() == clean[1:3].tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("candling.workflows.explain_parts.SHOWN", 1)
        assert alike(pairs).clean.tolist() == clean[1:2].tolist()


def test_scores_of_the_maps_count_their_cost(inputs: Path) -> None:
    model, prompts = opened(inputs)
    anatomy = dissect(model.model.module).anatomy  # type: ignore[arg-type]
    pairs = tokenise_pairs(prompts, model.tokenizer, window=model.window).pairs
    scores = METHODS.heads(anatomy, pairs)
    assert isinstance(scores, Scores)
    assert scores.denoising
    assert scores.axes == (Axis("layer", ("0", "1")), Axis("head", ("0", "1")))
    assert scores.cost.backward == 0 < scores.cost.forward
