"""Hundreds of malformed inputs in one watched process: no code runs, and each is refused in one short line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEEDS = 12

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script, folder = Path(__file__).with_name("malformed.py"), tmp_path_factory.mktemp("malformed")
    done = subprocess.run(
        [sys.executable, str(script), str(folder), str(SEEDS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_there_are_many(seen: dict[str, Any]) -> None:
    assert len(seen["results"]) >= 300


def test_the_watch_sees_code_that_runs(seen: dict[str, Any]) -> None:
    """The positive control: the same payloads, unpickled."""
    system, module = seen["controls"]
    assert system["canary"]
    assert any(event.startswith("os.system") for event in system["events"])
    assert module["canary"]
    assert {event.split()[0] for event in module["events"]} >= {"import", "exec", "pickle.find_class"}


def test_nothing_runs(seen: dict[str, Any]) -> None:
    assert seen["quiet"]
    assert [(one["name"], one["events"]) for one in seen["results"] if one["events"]] == []


def test_each_has_the_right_exit_code(seen: dict[str, Any]) -> None:
    wrong = [one for one in seen["results"] if one["code"] not in one["codes"]]
    assert [(one["name"], one["code"], one["codes"], one["line"]) for one in wrong] == []


def test_each_says_so_in_one_short_line(seen: dict[str, Any]) -> None:
    wrong = [one for one in seen["results"] if len(one["line"]) > 200 or not one["line"].isprintable()]
    assert [(one["name"], one["line"]) for one in wrong] == []
    assert all(one["line"].startswith("error[") for one in seen["results"])


def test_none_takes_long_or_much_memory(seen: dict[str, Any]) -> None:
    assert [(one["name"], one["seconds"]) for one in seen["results"] if one["seconds"] >= 2] == []
    assert seen["peak_megabytes"] < 300
