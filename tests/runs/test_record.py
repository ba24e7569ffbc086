"""The run folder: what is written comes back, and what is damaged is said to be."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from candling.errors import EnvironmentFault, InputError
from candling.evidence.control import NetworkRow, Networks, Plant, RunInfo
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Controls, Data, Subject, Verdict, Verdicts
from candling.runs.record import RunRecord, default_folder, dump, open_run, seal, sealed

FILES = ("verdicts.json", "networks.json", "run.json", "evidence.safetensors")
NUMBERS = st.floats(width=64)


def row(name: str, statistic: float = 1.5) -> NetworkRow:
    plant = Plant(family="patch, all-to-one", dose=0.5, physical="", rate=0.1, success=1, took=True, attempts=1)
    numbers = [field for field, kind in NetworkRow.__annotations__.items() if kind == "float"]
    return NetworkRow(
        **dict.fromkeys(numbers, 0.25) | {"statistic": statistic},
        problem="backdoor",
        name=name,
        role="subject" if name == "subject" else "positive",
        recipe="given",
        weights="0" * 64,
        plant=None if name == "subject" else plant,
        lead="all-to-one, any → 3 (patch)",
        confirmed=False,
        found=False,
    )


def example(**settings) -> RunRecord:
    verdict = Verdict(
        problem="backdoor",
        verdict="inconclusive",
        reason="lead not confirmed – „näher“",
        p_value=0.05,
        threshold=0.05,
        sensitivity=None,
        false_positive_rate=None,
        negatives_confirmed=None,
        baseline=None,
        finding=None,
        not_tested=[],
        claims=[],
    )
    return RunRecord(
        verdicts=Verdicts(
            candling="0",
            subject=Subject(weights="a", architecture="b", trusted="c"),
            seed=2**62,
            data=Data(control=1, search=2, confirm=3, classes=4, input_shape=[1, 8, 8]),
            controls=Controls(n=3, recipe="", resemblance=None),
            cost=Cost(forward=10**12, backward=0),
            verdicts=[verdict],
        ),
        networks=Networks(rows=[row("subject"), row("positive-00", -2.25)]),
        info=RunInfo(
            candling="0",
            model="module in memory",
            weights=None,
            trusted="arrays in memory",
            settings={"controls": 3, "device": "cpu", **settings},
            seconds=1.5,
            threads=1,
            python="3",
            torch="2",
        ),
        arrays={
            "scores": np.arange(6, dtype=np.float32).reshape(2, 3),
            "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "none": np.zeros((0, 2), dtype=np.float32),
        },
    )


@pytest.fixture
def written(tmp_path) -> Path:
    example().write(tmp_path)
    return tmp_path


def test_a_record_comes_back_as_it_was(written):
    read = RunRecord.read(written)
    assert read.verdicts == example().verdicts
    assert read.networks == example().networks
    assert read.info == example().info
    assert read.arrays.keys() == example().arrays.keys()
    for name, array in example().arrays.items():
        assert read.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(read.arrays[name], array)


def test_nothing_else_is_left_in_the_folder(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


def test_the_same_record_is_the_same_bytes(written, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    read = RunRecord.read(written)
    backwards = dict(reversed(read.arrays.items()))
    RunRecord(read.verdicts, read.networks, read.info, backwards).write(other)
    for name in FILES:
        assert (other / name).read_bytes() == (written / name).read_bytes()


def test_a_record_replaces_one_that_is_there(written):
    example(controls=5).write(written)
    assert RunRecord.read(written).info.settings["controls"] == 5
    assert not list(written.glob("*.part"))


def test_verdicts_hold_the_schema_by_its_name(written):
    text = (written / "verdicts.json").read_text(encoding="utf-8")
    assert json.loads(text)["schema"] == 1
    assert "näher" in text
    assert text.endswith("}\n")


def error_of(folder: Path) -> str:
    with pytest.raises(InputError) as fault:
        RunRecord.read(folder)
    assert fault.value.exit_code == 2
    assert "\n" not in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    assert f"{written / name} is missing" in error_of(written)


def test_a_missing_folder_is_named(tmp_path):
    assert str(tmp_path / "nowhere") in error_of(tmp_path / "nowhere")


def test_a_file_is_no_folder(written):
    assert str(written / "run.json") in error_of(written / "run.json")


DAMAGE = {
    "empty": lambda text: b"",
    "cut short": lambda text: text[: len(text) // 2],
    "of another kind": lambda text: b"[1, 2]",
    "not text": lambda text: b"\xff\xfe" + text,
    "nested too deeply": lambda text: b"[" * 100_000,
    "with more than it should": lambda text: text.replace(b"{", b'{"surprise": 1, ', 1),
    "with a wrong value": lambda text: re.sub(rb'("seed"|"dose"|"seconds"): [^,]+', rb"\1: []", text),
}


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_text_is_named(written, name, damage):
    path = written / name
    before = path.read_bytes()
    path.write_bytes(DAMAGE[damage](before))
    assert path.read_bytes() != before
    assert f"{path} is damaged" in error_of(written)


@pytest.mark.parametrize(
    "fields", [{"schema": 2}, {"candling": "9.1.0", "wings": 2}, {"candling": "0.10", "seed": "a"}]
)
def test_a_newer_record_is_refused_and_says_so(written, fields):
    path = written / "verdicts.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(InputError, match=r"verdicts\.json is of a newer candling \((schema 2|9\.1\.0|0\.10)\)"):
        RunRecord.read(written)


@pytest.mark.parametrize("fields", [{"schema": 0}, {"schema": "2"}, {"candling": "", "wings": 2}, {"seed": "a"}])
def test_what_is_odd_but_not_newer_is_damaged(written, fields):
    path = written / "verdicts.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(InputError, match=r"verdicts\.json is damaged at"):
        RunRecord.read(written)


def test_a_missing_field_is_named(written):
    path = written / "run.json"
    content = json.loads(path.read_text())
    del content["seconds"]
    path.write_text(json.dumps(content))
    assert "at seconds" in error_of(written)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_damaged_arrays_are_named(written, kept):
    path = written / "evidence.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is damaged" in error_of(written)


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path):
    with pytest.raises(EnvironmentFault, match="cannot write"):
        example().write(tmp_path / "nowhere")


# ---- numbers ----


def info(value: float) -> RunInfo:
    return example(number=value).info.model_copy(update={"seconds": value})


@given(NUMBERS)
def test_numbers_keep_six_digits_and_a_second_time_all_of_them(value):
    text = dump(info(value))
    assert text == dump(info(value))
    read = RunInfo.model_validate_json(text)
    if math.isnan(value):
        assert math.isnan(read.seconds)
    elif math.isinf(value):
        assert read.seconds == value
    else:
        assert read.seconds == pytest.approx(value, rel=5.1e-6, abs=5e-324)
        assert f"{read.seconds:.6g}" == f"{value:.6g}"
        assert float(f"{read.seconds:.6g}") == read.seconds
        assert dump(read) == text
    json.loads(text, parse_constant=pytest.fail)  # strict JSON: no NaN, no Infinity


def test_whole_numbers_are_never_rounded():
    assert json.loads(dump(example().verdicts))["seed"] == 2**62
    assert json.loads(dump(example().verdicts))["cost"]["forward"] == 10**12


# ---- folders ----


def test_a_new_or_an_empty_folder_will_do(tmp_path):
    for _ in range(2):
        with open_run(tmp_path / "a" / "b", {}) as (folder, ledger):
            assert folder == tmp_path / "a" / "b"
            assert ledger is not None
    (tmp_path / "empty").mkdir()
    with open_run(tmp_path / "empty", {}):
        pass


def test_no_folder_is_a_temporary_one_without_a_ledger():
    with open_run(None, {}) as (folder, ledger):
        assert folder.is_dir()
        assert ledger is None
    assert not folder.exists()


def refused(folder: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match), open_run(folder, {}):
        pass


def test_a_folder_with_something_in_it_will_not(written):
    before = sorted(path.name for path in written.iterdir())
    for path in (written, written / "run.json"):
        refused(path, InputError, "not an empty folder")
    assert sorted(path.name for path in written.iterdir()) == before


def test_a_folder_below_a_file_cannot_be_made(written):
    refused(written / "run.json" / "below", EnvironmentFault, "cannot make")


def test_results_without_a_ledger_are_not_filled_in(written):
    (written / ".lock").touch()
    refused(written, InputError, "missing or empty")
    (written / "ledger.sqlite").touch()
    refused(written, InputError, "missing or empty")


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    with open_run(tmp_path, {}):
        (tmp_path / "networks").mkdir()
        parts = [tmp_path / "run.json.part", tmp_path / "networks" / "0.safetensors.part"]
        for path in parts:
            path.write_text("half")
    with open_run(tmp_path, {}):
        assert not any(path.exists() for path in parts)


def test_a_finished_run_is_read_and_an_altered_one_is_not(tmp_path, caplog):
    with open_run(tmp_path, {}) as (folder, ledger):
        assert sealed(folder, ledger) is None
        example().write(folder)
        (folder / "report.html").write_text("page")
        seal(folder, ledger)
        read = sealed(folder, ledger)
        assert read is not None
        assert read.verdicts == example().verdicts
    for name in (*FILES, "report.html"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before[:-1])
        with open_run(tmp_path, {}) as (folder, ledger), caplog.at_level(logging.WARNING):
            assert sealed(folder, ledger) is None
        assert name in caplog.messages[-1]
        (tmp_path / name).write_bytes(before)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3))
def test_a_default_folder_is_one_name_below_candling_runs_for_the_same_inputs(name, inputs):
    folder = default_folder(name, inputs)
    assert folder.parent == Path("candling-runs")
    assert folder.name not in ("", ".", "..")
    assert "\0" not in folder.name
    assert folder == default_folder(name, dict(inputs))
    assert folder != default_folder(name, {**inputs, "seed": "another"})
