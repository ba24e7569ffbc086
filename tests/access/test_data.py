"""Data: every hazard refused with its row or count, and a split that keeps equal rows together."""

import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import check_line, mlp, unchanged
from torch import nn

from candling.access import Dataset, check_fits, check_inputs, from_arrays, read_inputs, read_npz, split
from candling.errors import CandlingError, InputError, UnsafeInputError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1])
SENSORS = np.array([[1, 1], [0, 0], [1, 0], [0, 1]])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "d.npz"


def refusal(act: object, *args: object, **kwargs: object) -> CandlingError:
    with pytest.raises(CandlingError) as raised:
        act(*args, **kwargs)  # type: ignore[operator]
    check_line(raised.value)
    return raised.value


def equal(a: Dataset, b: Dataset) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.sha256 == b.sha256


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 5), (4, 3, 2, 5)])
@pytest.mark.parametrize("kind", ["uint8", "int64", ">i2", "float16", "float64", ">f4", "bool"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_file_and_memory_agree(file: Path, shape: tuple[int, ...], kind: str, save: object) -> None:
    x = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
    save(file, x=np.asfortranarray(x), y=Y.astype("uint8"), other=X)  # type: ignore[operator]
    data = read_npz(file)
    assert equal(data, from_arrays(x, Y))
    assert equal(data, from_arrays(x.tolist(), Y.tolist()))
    if kind != "bool" and not kind.startswith(">"):
        assert equal(data, from_arrays(torch.from_numpy(x).requires_grad_(kind.startswith("f")), torch.tensor(Y)))
    image = len(shape) > 2
    assert data.kind == ("image" if image else "tabular")
    assert data.x.shape == ((4, 1, 2, 5) if len(shape) == 3 else shape)
    assert (data.x.dtype, data.y.dtype, data.classes, len(data)) == (torch.float32, torch.int64, 3, 4)
    assert data.low.shape == data.high.shape == ((1, 1, 1) if image else (3,))
    assert bool((data.low <= data.x).all())
    assert bool((data.x <= data.high).all())
    assert torch.equal(
        data.low.broadcast_to(data.x[0].shape), data.x.amin(None if image else 0).expand(data.x[0].shape)
    )


def test_a_dataset_owns_its_values() -> None:
    x, y = torch.from_numpy(X.copy()), torch.tensor(Y)
    data = from_arrays(x, y)
    x.zero_()
    y.zero_()
    assert torch.equal(data.x, torch.from_numpy(X))
    assert data.y.tolist() == Y.tolist()


def test_taken_rows_keep_what_belongs_to_the_whole() -> None:
    data = from_arrays(X, Y, classes=5)
    for index in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        part = data.take(index)
        assert torch.equal(part.x, data.x[[2, 0]])
        assert part.classes == 5
        assert torch.equal(part.high, data.high)
        assert part.sha256 == from_arrays(X[[2, 0]], Y[[2, 0]]).sha256 != data.sha256
    assert equal(data.take(torch.tensor([True, False, True, False])), data.take([0, 2]))
    assert len(data.take([])) == 0


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X[:0], Y[:0], "empty: x is [0, 3]"),
        (X[:, :0], Y, "empty"),
        (X[:, 0], Y, "x is [4]"),
        (X.reshape(1, 1, 1, 3, 4), Y, "x must be"),
        (X, Y[:, None], "y is [4, 1]: 1 sensor cannot be contradicted"),
        (X, SENSORS[:3], "x has 4 rows, y has 3"),
        (X, SENSORS.astype(float), "holds 0.0 and 1.0 alone: give integers for what sensors say"),
        (X, 2 * SENSORS, "a sensor says 2 in row 0 (3 such)"),
        (X, SENSORS - 1, "a sensor says -1 in row 1 (3 such)"),
        (X, SENSORS[:, :, None], "y [4, 2, 1]"),
        (X, np.maximum(SENSORS, [0, 1]), "all 2 sensors say no in none of 4 rows"),
        (X, np.minimum(SENSORS, [0, 1]), "all 2 sensors say yes in none of 4 rows"),
        (X, Y[:3], "x has 4 rows, y has 3"),
        (np.where(X > 5, np.nan, X), Y, "NaN or Inf in 2 rows, first in row 2"),
        (np.where(X == 4, -np.inf, X), Y, "NaN or Inf in 1 rows, first in row 1"),
        (np.where(X == 4, 1e300, X.astype(float)), Y, "NaN or Inf in 1 rows, first in row 1"),
        (X, Y + 0.5j, "y is complex128; it must hold integers from 0 (classes, or 0 and 1 of sensors) or real"),
        (X, np.where(Y == 2, np.nan, Y), "y has NaN or Inf in 1 rows, first in row 2"),
        (X, np.where(Y == 2, 1e300, Y), "y has NaN or Inf in 1 rows, first in row 2"),
        (X, Y * 0.0 + 3.5, "all 4 values are 3.5; at least two are needed"),
        (X, np.zeros((4, 0)), "y is [4, 0]: it says nothing of the rows"),
        (X, np.zeros((4, 2, 2)), "y [4, 2, 2]"),
        (X, 2 * np.eye(4)[[1, 1, 1, 1]], "action 1 is the best in all 4 rows"),
        (X, Y > 0, "y is bool"),
        (X, Y * 0 + 3, "all 4 labels are 3; at least two classes"),
        (X, Y - 1, "label out of range: -1 in row 0 (1 such)"),
        (X, Y.astype(np.uint64) + np.uint64(2**63), "label out of range: 9223372036854775808 in row 0"),
        (X * 1j, Y, "x is complex"),
        (X.astype(str), Y, "x is <U"),
        (X.astype("datetime64[s]"), Y, "x is datetime64"),
        ([[1.0, 2.0], [3.0]], [0, 1], "x is ragged"),
        ([[1.0], ["a"]], [0, 1], "x is <U"),
        ([[1.0], [None]], [0, 1], "x is object"),
        (torch.zeros(4, 2).to_sparse(), Y, "x is ragged or holds something other"),
    ],
)
def test_bad_arrays(x: object, y: object, says: str) -> None:
    error = refusal(from_arrays, x, y)
    assert isinstance(error, InputError)
    assert says in str(error)


def test_a_given_number_of_classes_is_a_bound(file: Path) -> None:
    np.savez(file, x=X, y=Y)
    assert read_npz(file, classes=7).classes == 7
    assert "label out of range: 2 in row 2 (1 such) for 2 classes" in str(refusal(read_npz, file, classes=2))


# --- files -------------------------------------------------------------------------------------------------


def npy(array: np.ndarray, **changes: object) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **changes)
    return out.getvalue()


def write_zip(path: Path, *members: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)


class Act:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("member", ["x.npy", "y.npy", "z.npy", "z.pkl", "z"])
@pytest.mark.parametrize("kind", ["object array", "plain pickle"])
def test_pickles_inside_are_refused_and_never_run(file: Path, tmp_path: Path, member: str, kind: str) -> None:
    canary = tmp_path / "canary"
    objects = np.empty(4, dtype=object)
    objects[0] = Act(canary)
    payload = npy(objects, allow_pickle=True) if kind == "object array" else pickle.dumps(Act(canary))
    members = {"x.npy": npy(X), "y.npy": npy(Y), member: payload}
    write_zip(file, *members.items())
    assert isinstance(refusal(read_npz, file), UnsafeInputError)
    assert not canary.exists()
    if kind == "object array":  # the positive control
        np.load(io.BytesIO(payload), allow_pickle=True)
    else:
        pickle.loads(payload)
    assert canary.exists()


def test_structured_objects_ragged_rows_and_bare_pickles_are_refused(file: Path) -> None:
    rows = np.empty(4, dtype=object)
    rows[:] = [[1], [2, 3], [4], [5]]
    for x in (rows, np.zeros(4, dtype=[("a", "f4"), ("b", object)])):
        np.savez(file, x=x, y=Y)
        assert isinstance(refusal(read_npz, file), UnsafeInputError)
    for content in (pickle.dumps({"x": X}), pickle.dumps([1, 2], 0)):
        file.write_bytes(content)
        assert isinstance(refusal(read_npz, file), UnsafeInputError)
    torch.save({"x": torch.tensor(X)}, file)
    assert isinstance(refusal(read_npz, file), UnsafeInputError)


def test_repeated_members_are_refused(file: Path) -> None:
    for name in ("x.npy", "x"):
        with pytest.warns(UserWarning, match="Duplicate") if name == "x.npy" else io.BytesIO():
            write_zip(file, ("x.npy", npy(X)), (name, npy(X + 1)), ("y.npy", npy(Y)))
        error = refusal(read_npz, file)
        assert isinstance(error, UnsafeInputError)
        assert "holds x twice" in str(error)


def test_zip_bombs_are_refused_by_what_they_declare(file: Path) -> None:
    write_zip(file, ("x.npy", npy(X)), ("y.npy", npy(Y)), ("z.npy", npy(Y)))
    content = bytearray(file.read_bytes())
    place = -1
    while (place := content.find(b"PK\x01\x02", place + 1)) >= 0:
        struct.pack_into("<I", content, place + 24, 0xF0000000)
    file.write_bytes(content)
    error = refusal(read_npz, file)
    assert isinstance(error, UnsafeInputError)
    assert "12,079,595,520 bytes" in str(error)


def test_a_header_that_claims_more_than_its_member_holds_allocates_nothing(file: Path) -> None:
    for shape in ((2**40, 3), (2**62, 4), (4, 4), (4, 2), (-4, -3)):
        content = npy(X).replace(b"(4, 3)", str(shape).encode())
        start = content.index(b"{")
        content = content[:8] + struct.pack("<H", content.index(b"\n") + 1 - start) + content[start:]
        write_zip(file, ("x.npy", content), ("y.npy", npy(Y)))
        assert "is damaged" in str(refusal(read_npz, file))


def test_missing_arrays_are_told_with_those_there(file: Path) -> None:
    np.savez(file, images=X, y=Y)
    assert "no array x; arrays there: images, y" in str(refusal(read_npz, file))
    write_zip(file)
    assert "arrays there: none" in str(refusal(read_npz, file))
    write_zip(file, *((f"\x1b[31m{n}" * 50 + ".npy", npy(X)) for n in range(50)))
    assert "and 45 more" in str(refusal(read_npz, file))


def test_other_files(file: Path, tmp_path: Path) -> None:
    for name in ("none.npz", ".", "a\0"):
        assert isinstance(refusal(read_npz, tmp_path / name), InputError)
    for content in (b"", b"x,y\n1,2\n", npy(X), b"\x89PNG\r\n\x1a\n"):
        file.write_bytes(content)
        error = refusal(read_npz, file)
        assert isinstance(error, InputError)
        assert "not an .npz" in str(error)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), packed=st.booleans())
def test_damage_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packed) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    (np.savez_compressed if packed else np.savez)(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert equal(read_npz(path), from_arrays(X, Y))
    except CandlingError as error:
        check_line(error)


# --- fitting and splitting ---------------------------------------------------------------------------------


def test_a_network_that_fits_tells_its_classes() -> None:
    data = from_arrays(np.eye(5, dtype=np.float32)[[0, 1, 2, 3]], Y)
    module = mlp().train()
    with unchanged(module):
        assert check_fits(data, module) == 3


class Give(nn.Module):
    def __init__(self, give: object) -> None:
        super().__init__()
        self.give = give

    def forward(self, x: torch.Tensor) -> object:
        return self.give(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Linear(4, 3), "the network fails on x of shape [4, 3]: RuntimeError"),
        (nn.Linear(3, 2), "label out of range: 2 in row 2 (1 such) for the network's 2 outputs"),
        (nn.Flatten(0), "gives [12] for 4 rows"),
        (nn.Unflatten(1, (3, 1)), "gives [4, 3, 1]"),
        (Give(lambda x: x[:1]), "gives [1, 3] for 4 rows"),
        (Give(lambda x: x.long()), "gives torch.int64"),
        (Give(lambda x: (x, x)), "gives tuple"),
        (Give(lambda x: None), "gives NoneType"),
    ],
)
def test_a_network_that_does_not_fit(module: nn.Module, says: str) -> None:
    error = refusal(check_fits, from_arrays(X, Y), module)
    assert isinstance(error, InputError)
    assert says in str(error)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.integers(0, 60), min_size=100, max_size=200),
    salt=st.text(max_size=5),
    image=st.booleans(),
)
def test_a_split_is_a_partition_that_keeps_equal_rows_together(rows: list[int], salt: str, image: bool) -> None:
    x = np.array(rows, dtype=np.float32)[:, None] * np.array([1.0, -1.0], dtype=np.float32)  # 0.0 and -0.0
    x[::2] += 0.0
    x = x.reshape(-1, 1, 2, 1) if image else x
    data = from_arrays(x, np.arange(len(rows)), classes=200)
    try:
        parts = split(data, salt=salt)
    except InputError:
        return
    assert list(parts) == ["control", "search", "confirm"]
    labels = torch.cat([part.y for part in parts.values()])
    assert labels.sort().values.tolist() == list(range(len(rows)))
    for part in parts.values():
        assert part.y.tolist() == sorted(part.y.tolist())
        assert torch.equal(part.x, data.x[part.y])
        assert torch.equal(part.low, data.low)
        assert part.classes == 200
    places = [{rows[row] for row in part.y.tolist()} for part in parts.values()]
    assert sum(map(len, places)) == len(set(rows))
    again = split(from_arrays(x[::-1], np.arange(len(rows))[::-1]), salt=salt)
    assert all(set(again[name].y.tolist()) == set(part.y.tolist()) for name, part in parts.items())


def test_a_split_is_even_fixed_and_salted() -> None:
    data = from_arrays(np.arange(3000, dtype=np.float32)[:, None], np.arange(3000) % 2)
    parts = split(data, salt="a")
    assert all(900 < len(part) < 1100 for part in parts.values())
    for row, value in enumerate(data.x[:50]):
        digest = hashlib.sha256(b"a" + value.numpy().tobytes()).hexdigest()
        assert value in list(parts.values())[int(digest[:16], 16) % 3].x, row
    assert not equal(parts["control"], split(data, salt="b")["control"])
    assert [len(part) > 0 for part in split(data, salt="a", parts=("one", "two")).values()] == [True, True]


def test_a_split_with_an_empty_part_is_refused() -> None:
    data = from_arrays(np.ones((9, 2)), np.arange(9) % 2)
    error = refusal(split, data, salt="")
    assert "too few different rows: 9 give" in str(error)


# --- untrusted inputs --------------------------------------------------------------------------------------


def test_untrusted_inputs_need_no_labels_and_are_read_as_trusted_ones_are(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.savez(tmp_path / "u.npz", x=x)
    found = read_inputs(tmp_path / "u.npz")
    assert found.shape == (2, 1, 3, 4)
    assert found.dtype == torch.float32
    np.savez(tmp_path / "t.npz", x=x, y=[0, 1])
    assert torch.equal(found, read_npz(tmp_path / "t.npz").x)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((0, 3)), "empty"),
        (np.full((2, 3), np.nan), "NaN or Inf in 2 rows, first in row 0"),
        (np.zeros(4), "must be"),
        (np.array([["a"]]), "must hold numbers"),
    ],
)
def test_untrusted_inputs_that_are_none_are_refused(tmp_path: Path, x: np.ndarray, says: str) -> None:
    np.savez(tmp_path / "u.npz", x=x)
    with pytest.raises(InputError, match=says):
        read_inputs(tmp_path / "u.npz")


def test_untrusted_inputs_of_another_shape_or_copied_from_the_trusted_are_refused() -> None:
    trusted = from_arrays(np.arange(12.0).reshape(4, 3), [0, 1, 0, 1])
    with pytest.raises(InputError, match=r"\[4\], trusted ones \[3\]"):
        check_inputs(np.zeros((2, 4)), trusted)
    with pytest.raises(InputError, match="2 untrusted inputs are also among the trusted ones, first in row 1"):
        check_inputs(np.array([[9.0, 9, 9], [0, 1, 2], [9, 10, 11]]), trusted)
    with pytest.raises(InputError, match="first in row 0"):  # -0.0 is 0.0
        check_inputs(np.array([[-0.0, 1, 2]]), trusted)
    assert check_inputs(np.array([[9.0, 9, 9]]), trusted).tolist() == [[9.0, 9.0, 9.0]]


def test_sensors_come_with_the_outcome_beside_them(file: Path) -> None:
    """As numbers or truth values, from a file or from memory: the same; rows, and their order, are kept."""
    data = from_arrays(X, SENSORS)
    assert data.sensors is not None
    assert data.sensors.tolist() == SENSORS.astype(bool).tolist()
    assert data.y.tolist() == [1, 0, 0, 0]
    assert data.classes == 2
    np.savez(file, x=X, y=SENSORS > 0)
    assert read_npz(file).sha256 == data.sha256 != from_arrays(X, SENSORS[:, ::-1]).sha256
    part = data.take([3, 0])
    assert part.sensors is not None
    assert part.sensors.tolist() == [[False, True], [True, True]]
    assert part.sha256 == from_arrays(X[[3, 0, 1]], SENSORS[[3, 0, 1]]).take([0, 1]).sha256


def test_a_network_has_one_output_for_each_sensor() -> None:
    data = from_arrays(X, SENSORS)
    assert check_fits(data, torch.nn.Linear(3, 2)) == 2
    error = refusal(check_fits, data, torch.nn.Linear(3, 3))
    assert "the network has 3 outputs, y 2 sensors" in str(error)
