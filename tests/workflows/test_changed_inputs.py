"""What was read is read again when a run goes on: a file that changed is named, and the run is left alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import little
from candling.cli import main

NET = "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Linear(4, 3))\n"


def audit(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Too little trusted data for anything to be trained: inconclusive, and finished at once."""
    sys.argv = ["candling", "audit", *map(str, words), "--controls", "3"]
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().err


def flip(path: Path) -> None:
    """The lowest bit of one weight."""
    state = load_file(path)
    name = min(state)
    state[name].view(torch.int32).view(-1)[0] ^= 1
    save_file(state, path)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_language_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("reference", "subject")):
        little.save(little.decoder(seed), tmp_path / name)
    little.write_texts(tmp_path / "texts.jsonl", little.texts(30))
    little.write_texts(tmp_path / "more.jsonl", little.texts(9, seed=1))
    named = [tmp_path / "subject", "--reference", tmp_path / "reference", "--out", tmp_path / "run"]
    named += ["--trusted", tmp_path / "texts.jsonl", "--untrusted", tmp_path / "more.jsonl"]
    assert audit(capsys, *named)[0] == 6
    assert audit(capsys, *named)[0] == 6
    before = contents(tmp_path / "run")
    changes = {
        "weights": tmp_path / "subject" / "model.safetensors",
        "reference reference": tmp_path / "reference" / "model.safetensors",
        "trusted texts.jsonl": tmp_path / "texts.jsonl",
        "untrusted": tmp_path / "more.jsonl",
    }
    for says, path in changes.items():
        whole = path.read_bytes()
        if path.suffix == ".safetensors":
            flip(path)
        else:
            path.write_bytes(whole.replace(b"the", b"and", 1))
        status, said = audit(capsys, *named)
        assert status == 2
        assert f"holds another run: {says} differ" in said
        path.write_bytes(whole)
    assert contents(tmp_path / "run") == before
    assert audit(capsys, *named)[0] == 6


def test_a_classifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net, weights, trusted = Path("net.py"), Path("w.safetensors"), Path("t.npz")
    net.write_text(NET)
    save_file(torch.nn.Sequential(torch.nn.Linear(4, 3)).state_dict(), weights)
    rows = {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), "y": np.arange(40) % 3}
    np.savez(trusted, **rows)
    named = ["net.py:build", "--weights", weights, "--trusted", trusted, "--out", "run"]
    assert audit(capsys, *named)[0] == 6
    before = contents(Path("run"))
    for says, path in {
        "architecture net.py:build": net,
        "weights w.safetensors": weights,
        "trusted": trusted,
    }.items():
        whole = path.read_bytes()
        if path is net:
            path.write_text(NET + "# the same, and yet another\n")
        elif path is weights:
            flip(path)
        else:
            rows["x"][7, 1] += 1e-6
            np.savez(path, **rows)
        status, said = audit(capsys, *named)
        assert status == 2
        assert f"holds another run: {says}" in said
        path.write_bytes(whole)
    assert contents(Path("run")) == before
    assert json.loads(Path("run/verdicts.json").read_text())["verdicts"][0]["verdict"] == "inconclusive"
