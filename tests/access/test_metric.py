"""A metric is the user's code: run as an architecture is, checked at every call, one line where it is wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import check_line
from torch import nn

from candling.access import check_fits, from_arrays
from candling.access.metric import read_metric
from candling.errors import CandlingError, InputError

OUTPUTS, Y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])


def fault(given: object, y: torch.Tensor = Y) -> str:
    with pytest.raises(InputError) as raised:
        read_metric(given)(OUTPUTS, y)  # type: ignore[arg-type]
    check_line(raised.value)
    return str(raised.value)


def test_the_mean_over_rows_or_the_one_number(tmp_path: Path):
    file = tmp_path / "m.py"
    file.write_text("import torch\ndef rows(o, y): return -(o - y).abs()\ndef one(o, y): return float(o.max())\n")
    assert read_metric(f"{file}:rows")(OUTPUTS, Y) == pytest.approx(-1 / 3)
    assert read_metric(f"{file}:one")(OUTPUTS, Y) == 4.0
    assert read_metric(lambda o, y: [1, 2, 3])(OUTPUTS, Y) == 2.0
    again = pickle.loads(pickle.dumps(read_metric(f"{file}:one")))
    assert again(OUTPUTS, Y) == 4.0
    assert again.fingerprint == read_metric(f"{file}:one").fingerprint


def test_what_decides_a_metric_is_its_source_not_its_folder(tmp_path: Path):
    found = []
    for folder, text in (("a", "def m(o, y): return 1.0\n"), ("b", "def m(o, y): return 1.0\n"), ("c", "m = len\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(text)
        found.append(read_metric(f"{tmp_path / folder / 'm.py'}:m").fingerprint)
    assert found[0] == found[1] != found[2]


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path):
    file = tmp_path / "m.py"
    file.write_text("def m(o, y): return 1.0\n")
    metric = read_metric(f"{file}:m")
    file.write_text("def m(o, y): return 2.0\n")
    with pytest.raises(InputError, match="changed since"):
        metric(OUTPUTS, Y)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1/0", "importing"),
        ("def other(o, y): return 1", "has no function m; it has other"),
        ("def m(o, y): raise ValueError('no\\nway')", "raised ValueError: no\\nway"),
        ("def m(o): return 1", "raised TypeError"),
        ("def m(o, y): return o.new_full((3,), float('nan'))", "NaN or Inf for 3 of 3 rows, first in row 0"),
        ("def m(o, y): return float('inf')", "NaN or Inf for 1 of 1 rows"),
        ("def m(o, y): return o[:2]", "shape [2] for 3 rows: give [3] or one number"),
        ("def m(o, y): return o[:, None]", "shape [3, 1]"),
        ("def m(o, y): return 'good'", "gives str"),
        ("def m(o, y): return None", "NaN"),
        ("def m(o, y): exit()", "raised SystemExit"),
    ],
)
def test_one_line_says_what_is_wrong(tmp_path: Path, text: str, says: str):
    file = tmp_path / "m.py"
    file.write_text(text + "\n")
    message = fault(f"{file}:m")
    assert message.startswith("error[metric]: ")
    assert says in message


@pytest.mark.parametrize(
    "spec", ["m.py", "https://h/m.py:m", "no_such_file.py:m", "no.such.module:m", ":", "m.py:m()"]
)
def test_a_spec_that_names_nothing(spec: str):
    assert fault(spec).startswith("error[metric]: ")


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_refused_in_one_line(text: str):
    try:
        read_metric(text)
    except CandlingError as refused:
        check_line(refused)


@settings(max_examples=80, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.just(torch.zeros(3)),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=5,
    )
)
def test_any_result_is_a_finite_number_or_refused_in_one_line(result: object):
    try:
        assert np.isfinite(read_metric(lambda o, y: result)(OUTPUTS, Y))
    except CandlingError as refused:
        check_line(refused)


def test_it_is_tried_before_anything_is_trained_and_sees_outputs_in_the_users_units():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=g)
    seen = []
    data = from_arrays(x, 50 + x[:, 0], metric=lambda o, y: seen.append((o, y)) or -(o - y).abs())
    network = nn.Linear(2, 1)
    assert check_fits(data, network) == 3
    outputs, y = seen[0]
    assert torch.allclose(outputs, network(x[:4])[:, 0], atol=1e-3)
    assert torch.equal(y, data.values[:4])
    bad = from_arrays(x, 50 + x[:, 0], metric=lambda o, y: o.sum(-1, keepdim=True) / 0)
    with pytest.raises(InputError, match=r"error\[metric\]"):
        check_fits(bad, network)
