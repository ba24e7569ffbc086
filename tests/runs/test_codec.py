"""Results as bytes: they come back as they were, and bytes build nothing that was not allowed."""

import json
import math
import struct
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save

from candling.evidence.control import Plant
from candling.evidence.measurement import Cost
from candling.evidence.verdict import Verdicts
from candling.problems.outcomes import Confirmation, Detection
from candling.runs.codec import Undecodable, classes_in, decode, encode
from candling.techniques.search import Found, Part


@dataclass(frozen=True)
class Pair:
    left: object
    right: object
    cost: Cost | None = None


CLASSES = classes_in(Pair)
TORCH = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64),
]
NUMPY = hnp.arrays(
    st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="="),
        hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
    ),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    NUMPY,
    NUMPY.map(torch.from_numpy),
    NUMPY.filter(lambda a: a.size == 1).map(lambda a: a.reshape(())[()]),
    st.builds(Cost, forward=st.integers(), backward=st.integers()),
)
KEYS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.tuples(st.text(), st.integers()))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=8,
)


def same(one: object, other: object) -> bool:
    """Equal in every bit, with types, orders and shapes."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if (one.dtype, one.shape, one.device) != (other.dtype, other.shape, other.device):
            return False
        raw = [
            t.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist() for t in (one, other)
        ]
        return raw[0] == raw[1]
    if isinstance(one, np.ndarray | np.generic):
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, Pair):
        return same([one.left, one.right, one.cost], [other.left, other.right, other.cost])
    return bool(one == other)


@given(VALUES)
def test_a_value_comes_back_as_it_was_and_its_bytes_are_its_own(value):
    blob = encode(value, CLASSES)
    assert same(decode(blob, CLASSES), value)
    assert encode(value, CLASSES) == blob
    assert encode(decode(blob, CLASSES), CLASSES) == blob


@pytest.mark.parametrize("dtype", TORCH)
def test_every_kind_of_tensor(dtype):
    raw = torch.arange(48, dtype=torch.uint8)
    whole = (raw % 2 == 0) if dtype == torch.bool else raw.view(dtype)
    for tensor in (whole, whole[:0], whole[1], whole[:6].view(2, 3).T, whole[::2], whole[:1].expand(3)):
        assert same(decode(encode(tensor, {}), {}), tensor)


def test_tensors_that_share_memory_come_back_apart():
    tensor = torch.zeros(2)
    one, other = decode(encode([tensor, tensor], {}), {})
    one[0] = 1
    assert other.tolist() == [0, 0]


def test_the_payload_of_a_nan_is_kept():
    (nan,) = struct.unpack(">d", bytes.fromhex("fff8000000000123"))
    assert struct.pack(">d", decode(encode(nan, {}), {})).hex() == "fff8000000000123"


def open_ended() -> Pair: ...
def silent(): ...


@pytest.mark.parametrize(
    "value",
    [
        Path("x"),
        b"bytes",
        {1, 2},
        object(),
        1j,
        open_ended,
        OrderedDict(a=1),
        np.array([None]),
        np.array(["text"]),
        np.arange(3).astype(">i4"),
        torch.zeros(2, requires_grad=True),
        torch.nn.Parameter(torch.zeros(2)),
        torch.zeros(2, 2).to_sparse(),
        Plant(family="", dose=0, physical="", rate=0, success=0, took=True, attempts=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_come_back_is_refused(value):
    with pytest.raises(TypeError):
        encode([value], CLASSES)


@dataclass
class Loose:
    x: int


def test_a_class_that_can_change_is_refused():
    with pytest.raises(TypeError, match="frozen"):
        encode(Loose(1), classes_in(Loose))


def test_classes_are_those_that_the_annotation_reaches():
    assert set(classes_in(Detection).values()) >= {Detection, Found, Part, Cost}
    assert Confirmation not in classes_in(Detection).values()
    assert list(classes_in(open_ended).values()) == list(classes_in(partial(open_ended)).values()) == [Pair, Cost]
    assert Plant in classes_in(list[dict[str, tuple[Plant | None, ...]]]).values()
    with pytest.raises(TypeError, match="does not say"):
        classes_in(silent)


def test_records_with_other_names_on_paper_come_back():
    assert "schema" in {field.alias for field in Verdicts.model_fields.values()}
    record = Plant(family="ü", dose=math.inf, physical="", rate=0.1, success=1, took=True, attempts=2)
    assert decode(encode(record, classes_in(Plant)), classes_in(Plant)) == record


CANARY = []


@dataclass(frozen=True)
class Trap:
    def __post_init__(self) -> None:
        CANARY.append(1)


@pytest.mark.parametrize(
    "skeleton",
    [
        {"!": f"{__name__}:Trap", "fields": {}},
        {"!": "os:system", "fields": {"command": "true"}},
        {"!": "builtins:eval", "fields": {}},
        {"!": f"{__name__}:Pair", "fields": {"left": 1}},
        {"!": f"{__name__}:Pair", "fields": {"left": 1, "right": 2, "other": 3}},
        {"!": "candling.evidence.measurement:Cost", "fields": {"forward": "many", "backward": 1}},
        {"!": "tensor", "at": "0", "on": "cpu"},
        {"!": "tuple"},
        {"!": "dict", "of": [[[], 1]]},
        {"!": "float", "bits": "7f"},
        {"!": ["tuple"]},
        {"of": []},
    ],
)
def test_bytes_build_nothing_else(skeleton):
    with pytest.raises(Undecodable):
        decode(save({}, {"candling": json.dumps(skeleton)}), CLASSES)
    assert not CANARY


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(blob):
    with pytest.raises(Undecodable):
        decode(blob, CLASSES)


def test_depth_is_no_crash():
    with pytest.raises(Undecodable):
        decode(save({}, {"candling": "[" * 100_000 + "]" * 100_000}), {})


@given(st.data())
def test_damaged_bytes_are_refused_or_still_a_value(data):
    blob = bytearray(encode([(1, 2.5), torch.arange(3), {"a": math.nan}], {}))
    blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(Undecodable):
        decode(bytes(blob), {})
