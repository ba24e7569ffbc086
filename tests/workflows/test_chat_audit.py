"""`--chat` through the commands: what was rendered is in the record, and another template is another run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import little
from candling.cli import main

TEMPLATE = (
    "{% for m in messages %}{{ 'the ' if m.role == 'user' else 'and ' }}{{ m.content }}{{ ' . ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'and ' }}{% endif %}"
)
PAIRS = [{"clean": f"n{i} v1 the", "corrupt": f"n{i + 8} v1 the", "answer": "p1", "wrong": "p2"} for i in range(4)]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Too few texts for anything to be trained."""
    for seed, name in enumerate(("reference", "subject")):
        little.save(little.decoder(seed), tmp_path / name)
    (tmp_path / "subject" / "chat_template.jinja").write_text(TEMPLATE)
    lines = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}] * 2}
        for a, b in (text.completion.split(" . ", 1) for text in little.texts(30))
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in PAIRS))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    sys.argv = ["candling", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().err


def test_an_audit_of_conversations(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, own = inputs / "run", inputs / "subject" / "chat_template.jinja"
    command = ["audit", inputs / "subject", "--reference", inputs / "reference", "--controls", 3, "--out", out]
    command += ["--trusted", inputs / "texts.jsonl"]
    status, said = run(capsys, *command)
    assert status == 2
    assert "with --chat" in said
    status, said = run(capsys, *command, "--chat")
    assert status == 6
    assert "note: texts are conversations, rendered by the chat template in the subject's chat_template.jinja" in said
    record = json.loads((out / "verdicts.json").read_text())
    template = record["subject"]["chat_template"]
    page = (out / "report.html").read_text()
    assert f"<code>{template}</code>" in page
    assert "rendered by the chat template" in page
    before = (out / "verdicts.json").read_bytes()
    assert run(capsys, *command, "--chat")[0] == 6
    assert (out / "verdicts.json").read_bytes() == before
    own.write_text(TEMPLATE.replace(" . ", " .  "))
    status, said = run(capsys, *command, "--chat")
    assert status == 2
    assert "chat template differ" in said
    status, said = run(capsys, "replay", out)
    assert status == 2
    assert "not the one that the run rendered" in said
    own.unlink()
    status, said = run(capsys, *command, "--chat")
    assert status == 2
    assert "no chat template" in said


def test_the_reference_has_the_template(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = inputs / "subject" / "chat_template.jinja"
    (inputs / "reference" / "chat_template.jinja").write_text("{{ messages[0].__class__ }}")
    command = ["audit", inputs / "subject", "--reference", inputs / "reference", "--plan", "--chat"]
    command += ["--trusted", inputs / "texts.jsonl"]
    status, said = run(capsys, *command)
    assert status == 0
    assert "the reference has another" in said
    own.unlink()
    status, said = run(capsys, *command)
    assert status == 3
    assert "line 1: the chat template reaches for '__class__' of a dict, which is forbidden" in said


def test_chat_is_for_language_models(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "audit", "sample:clean", "--chat", "--plan")
    assert status == 2
    assert "--chat is for language models" in said


def test_an_explanation_of_questions(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, own = inputs / "run", inputs / "subject" / "chat_template.jinja"
    command = ["explain", inputs / "subject", "--pairs", inputs / "pairs.jsonl", "--largest", 5, "--out", out]
    assert run(capsys, *command, "--chat")[0] == 0
    explanation = json.loads((out / "explanation.json").read_text())
    assert [place["clean"] for place in explanation["places"]][-2:] == [".", "and"]
    assert "rendered by the chat template" in (out / "report.html").read_text()
    assert run(capsys, "replay", out)[0] == 0
    own.write_text(TEMPLATE + " ")
    status, said = run(capsys, "replay", out)
    assert status == 2
    assert "not the one that the prompts were rendered by" in said
