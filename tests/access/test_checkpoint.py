"""Weights files: read exactly or refused with the right code in one line; nothing in them ever runs."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NETWORKS, check_line
from torch import nn

from candling.access import fill, header, read_weights, sha256_file, sha256_state
from candling.access.content import looks_pickled
from candling.access.header import DTYPES
from candling.errors import CandlingError, InputError, UnsafeInputError

MANY = settings(max_examples=150, deadline=None)


def pack(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = pack({"__metadata__": {"k": "v"}, "a": entry(), "b": entry("BOOL", [3], [8, 11])}, bytes(11))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights") / "w.safetensors"


def refusal(path: Path, content: bytes | None = None) -> CandlingError:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CandlingError) as raised:
        read_weights(path)
    check_line(raised.value)
    return raised.value


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    def raw(tensor: torch.Tensor) -> tuple[object, ...]:
        return tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist()

    return {k: raw(v) for k, v in ours.items()} == {k: raw(v) for k, v in theirs.items()}


def accepts(path: Path, content: bytes) -> bool:
    """Whether it is read; then the library must read the same, else it must be refused as bad input."""
    path.write_bytes(content)
    try:
        weights = read_weights(path)
    except InputError as error:
        check_line(error)
        return False
    assert same(weights, safetensors.torch.load_file(path))
    return True


@MANY
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter("__metadata__".__ne__),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_every_dtype_and_shape_survives(file: Path, tensors) -> None:
    kept = {name: torch.ones(shape).to(DTYPES[kind]) for name, (kind, shape) in tensors.items()}
    safetensors.torch.save_file(kept, file)
    assert same(read_weights(file), kept)


def test_unaligned_tensors_are_read(file: Path) -> None:
    header = {"a": entry("U8", [1], [0, 1]), "b": entry("F64", [2], [1, 17])}
    file.write_bytes(pack(header, b"\x07" + torch.tensor([1.5, -2.5], dtype=torch.float64).numpy().tobytes()))
    weights = read_weights(file)
    assert weights["b"].tolist() == [1.5, -2.5]
    assert weights["b"].data_ptr() % 8 == 0


def test_any_name_will_do(file: Path) -> None:
    for name in ("w.pt", "w.pkl", "w"):
        path = file.with_name(name)
        path.write_bytes(GOOD)
        assert read_weights(path).keys() == {"a", "b"}


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_truncated_anywhere(file: Path, cut: int) -> None:
    assert isinstance(refusal(file, GOOD[:cut]), InputError)


def test_a_flipped_bit_is_refused_or_read_as_the_library_reads_it(file: Path) -> None:
    accepted = 0
    for bit in range(0, 8 * len(GOOD), 3):
        content = bytearray(GOOD)
        content[bit // 8] ^= 1 << bit % 8
        accepted += accepts(file, content)
    assert 0 < accepted < len(GOOD)


@MANY
@given(
    where=st.integers(0, len(GOOD)),
    drop=st.integers(0, 4),
    insert=st.binary(max_size=6).filter(lambda insert: b"PK" not in insert)  # else a zip archive's end
    | st.sampled_from([b'""', b"[", b"}", b"0", b"-", b',"a":1', b"\xff", b"\\ud800"]),
)
def test_every_splice_is_refused_or_read_as_the_library_reads_it(file: Path, where, drop, insert) -> None:
    content = GOOD[:where] + insert + GOOD[where + drop :]
    header = content[8 : -11 or None]
    accepts(file, len(header).to_bytes(8, "little") + header + content[-11:])


def raw(text: str, data: int = 8) -> bytes:
    return pack(text.encode("utf-8", "surrogatepass"), bytes(data))


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

MALFORMED = {
    "empty file": (b"", "truncated"),
    "header length only": (bytes(8), "no JSON object"),
    "header past the file": (pack({"a": entry()}, bytes(8), length=500), "truncated"),
    "header length absurd": (pack({"a": entry()}, bytes(8), length=2**63), "absurd"),
    "bad UTF-8": (pack(b'{"\xff":1}'), "UTF-8 at byte 2"),
    "byte order mark": (raw("\ufeff{}"), "no JSON object"),
    "no JSON": (raw("{a:1}"), "well-formed"),
    "a list": (raw("[]"), "no JSON object"),
    "two values": (raw(f'{{"a":{ENTRY}}}{{}}'), "well-formed"),
    "deep JSON": (raw('{"a":' + "[" * 100_000), "well-formed"),
    "NaN in the header": (raw('{"a":NaN}'), "NaN"),
    "huge number": (raw('{"a":' + "9" * 5000 + "}"), "well-formed"),
    "duplicate name": (raw(f'{{"a":{ENTRY},"a":{ENTRY}}}'), "a twice"),
    "duplicate field": (raw('{"a":' + ENTRY.replace("}", ',"dtype":"F32"}') + "}"), "dtype twice"),
    "extra field": (raw('{"a":' + ENTRY.replace("}", ',"x":1}') + "}"), "exactly"),
    "missing field": (raw('{"a":{"dtype":"F32","shape":[2]}}'), "exactly"),
    "entry no map": (raw('{"a":[]}'), "exactly"),
    "metadata no map": (raw(f'{{"__metadata__":[],"a":{ENTRY}}}'), "__metadata__"),
    "metadata no strings": (raw(f'{{"__metadata__":{{"k":1}},"a":{ENTRY}}}'), "__metadata__"),
    "empty name": (raw(f'{{"":{ENTRY}}}'), "empty name"),
    "half a character": (raw(f'{{"\\ud800":{ENTRY}}}'), "half a character"),
    "half a character in metadata": (
        raw(f'{{"__metadata__":{{"k":"\\udfff"}},"a":{ENTRY}}}'),
        "half a character",
    ),
    "unknown dtype": (pack({"a": entry("F31")}, bytes(8)), "F31"),
    "dtype no text": (pack({"a": entry([])}, bytes(8)), "dtype"),
    "negative offset": (pack({"a": entry(offsets=[-8, 0])}, bytes(8)), "holds -8, not"),
    "reversed offsets": (pack({"a": entry(offsets=[8, 0])}, bytes(8)), "data_offsets"),
    "three offsets": (pack({"a": entry(offsets=[0, 4, 8])}, bytes(8)), "data_offsets"),
    "fractional offset": (pack({"a": entry(offsets=[0, 8.0])}, bytes(8)), "holds 8.0, not"),
    "minus nothing": (raw('{"a":' + ENTRY.replace("[0,", "[-0,") + "}"), "holds -0, not"),
    "true as an offset": (pack({"a": entry("U8", [1], [False, True])}, bytes(1)), "data_offsets"),
    "past the data": (pack({"a": entry(offsets=[0, 8])}, bytes(7)), "take 8 bytes, but 7"),
    "overlap": (pack({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "b overlaps"),
    "hole": (pack({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "hole"),
    "hole at the start": (pack({"a": entry(offsets=[4, 12])}, bytes(12)), "hole"),
    "trailing bytes": (GOOD + b"\0", "follow the header"),
    "size and shape differ": (pack({"a": entry(shape=[3])}, bytes(8)), "12 are needed"),
    "negative size": (pack({"a": entry(shape=[-2])}, bytes(8)), "holds -2, not"),
    "two negative sizes": (pack({"a": entry(shape=[-2, -1])}, bytes(8)), "holds -2, not"),
    "shape no list": (pack({"a": entry(shape=2)}, bytes(8)), "shape"),
    "fractional size": (pack({"a": entry(shape=[2.0])}, bytes(8)), "holds 2.0, not"),
    "overflowing size": (pack({"a": entry(shape=[2**64])}, bytes(8)), "shape"),
    "overflowing shape": (pack({"a": entry(shape=[2**32, 2**32, 2])}, bytes(8)), "shape"),
    "overflow behind a zero": (pack({"a": entry(shape=[0, 2**62, 4], offsets=[0, 0])}), "shape"),
    "too many axes": (pack({"a": entry(shape=[2] + [1] * 64)}, bytes(8)), "shape"),
    "no tensor": (pack({}), "no tensor"),
    "only metadata": (pack({"__metadata__": {}}), "no tensor"),
    "BOOL outside 0 and 1": (pack({"a": entry("BOOL", [3], [0, 3])}, b"\0\1\2"), "1 BOOL"),
    "text": (b"name,loss\nfirst,1\nsecond,2\n" * 9, "not a safetensors file"),
    "configuration": (b"config: a\nmodel: b\nlayers: 3\n" * 9, "not a safetensors file"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a safetensors file"),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", "not a safetensors file"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed(file: Path, kind: str) -> None:
    content, says = MALFORMED[kind]
    error = refusal(file, content)
    assert isinstance(error, InputError)
    assert says in str(error)


def test_too_many_tensors(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert header.MAX_TENSORS == 100_000
    monkeypatch.setattr(header, "MAX_TENSORS", 2)
    file.write_bytes(pack({str(n): entry("U8", [0], [0, 0]) for n in range(2)}))
    assert len(read_weights(file)) == 2
    assert "3 tensors, more than 2" in str(refusal(file, pack({str(n): entry("U8", [0], [0, 0]) for n in range(3)})))


def test_missing_folder_pipe_and_nul(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", ".", "pipe", "a\0b", "n" * 5000):
        assert isinstance(refusal(tmp_path / name), InputError)
    with pytest.raises(InputError):
        sha256_file(tmp_path / "none")


@MANY
@given(
    name=st.text(min_size=1, max_size=300).filter("__metadata__".__ne__),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
def test_values_that_are_no_numbers_are_named_and_counted(file: Path, name: str, value: float) -> None:
    data = torch.tensor([1.0, value, value]).numpy().tobytes()
    error = refusal(file, pack({name: entry(shape=[3], offsets=[0, 12])}, data))
    assert isinstance(error, InputError)
    assert "2 NaN or Inf of 3" in str(error)
    assert len(name) > 40 or not name.isascii() or not name.isprintable() or name in str(error)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F32", "F64", "F8_E5M2", "C64"])
def test_every_floating_kind_is_checked(file: Path, kind: str) -> None:
    safetensors.torch.save_file({"w": torch.tensor([1.0, float("inf")]).to(DTYPES[kind])}, file)
    assert "w has 1 NaN or Inf" in str(refusal(file))


# --- pickles and archives: refused unread ------------------------------------------------------------------


class OnReduce:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.mkdir, (Path(self.path),)


class OnState:
    """Acts while it is built (NEWOBJ and BUILD)."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["path"]).mkdir()


def payloads(canary: Path) -> dict[str, bytes]:
    path = str(canary).encode()
    made = {f"reduce, protocol {n}": pickle.dumps(OnReduce(str(canary)), n) for n in range(6)}
    made |= {f"build, protocol {n}": pickle.dumps([OnState(str(canary))], n) for n in range(6)}
    made["GLOBAL and REDUCE"] = b"cos\nmkdir\n(S'" + path + b"'\ntR."
    made["INST"] = b"(S'" + path + b"'\nios\nmkdir\n."
    made["OBJ"] = b"(cos\nmkdir\nS'" + path + b"'\no."
    made["after a megabyte of nothing"] = b"N0" * 600_000 + made["GLOBAL and REDUCE"]
    return made


KINDS = sorted(payloads(Path("canary")))


@pytest.mark.parametrize("tail", ["whole", "broken"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, kind: str, tail: str) -> None:
    canary = tmp_path / "canary"
    payload = payloads(canary)[kind]
    if tail == "broken":
        payload = payload[:-1] + b"\xff"
    for name in ("w.safetensors", "w.pt", "w.bin", "w"):
        assert isinstance(refusal(tmp_path / name, payload), UnsafeInputError)
    assert not canary.exists()
    try:  # the positive control: the same bytes do act when they are unpickled
        pickle.loads(payload)
    except (EOFError, pickle.UnpicklingError):
        assert tail == "broken"
    assert canary.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"Pid\n.",
        b"I1\nQ.",
        b"\x80\x02\x82\xf0.",
        b"cos\nsystem\n",
        b"\x80\x04N",
        pickle.dumps({"w": [1.0, 2.0]}, 0),
        pickle.dumps({"w": [1.0, 2.0]}, 1),
        pickle.dumps({"w": [1.0, 2.0]}),
    ],
)
def test_other_pickles_are_refused_too(file: Path, payload: bytes) -> None:
    assert isinstance(refusal(file, payload), UnsafeInputError)


def test_what_torch_saves_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    for number, kind in enumerate((True, False)):
        path = tmp_path / f"{number}.safetensors"
        torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=kind)
        error = refusal(path)
        assert isinstance(error, UnsafeInputError)
        assert "safetensors.torch.save_file" in str(error)
        assert "weights_only" not in str(error)


def test_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with zipfile.ZipFile(path, "w"):
        pass
    assert isinstance(refusal(path), UnsafeInputError)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"N.")
    content = path.read_bytes()
    assert isinstance(refusal(path, content[:20]), UnsafeInputError)
    assert isinstance(refusal(path, b"#!/bin/sh\n" + content), UnsafeInputError)
    assert isinstance(refusal(path, GOOD + content), UnsafeInputError)


def test_a_file_that_is_safetensors_and_pickle_at_once_is_only_ever_one(file: Path) -> None:
    text = json.dumps({"a": entry()}).encode()
    content = len(text).to_bytes(8, "little") + text
    tail = b"cos\nsystem\n"
    file.write_bytes(content + tail[:8])
    assert list(read_weights(file)) == ["a"]


def test_no_length_of_a_header_reads_as_a_pickle() -> None:
    for length in range(8, 1 << 16, 8):
        prefix = length.to_bytes(8, "little")
        assert not looks_pickled(prefix + b'{"a":{"dtype":"F32"')
        assert not looks_pickled(prefix)


# --- filling a network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_filling_copies_everything(name: str) -> None:
    source, target = NETWORKS[name](), NETWORKS[name]()
    assert sha256_state(source) != sha256_state(target)
    fill(target, source.state_dict())
    assert sha256_state(source) == sha256_state(target)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_tensor_may_be_missing_extra_or_misshaped(name: str) -> None:
    state = NETWORKS[name]().state_dict()
    for key, value in state.items():
        target = NETWORKS[name]()
        before = sha256_state(target)
        wrong = [
            {k: v for k, v in state.items() if k != key},
            {**state, key + "x": value},
            {**state, key: torch.cat([value.reshape(-1), value.reshape(-1)])},
        ]
        if key.startswith(("once", "alias")):
            del wrong[0]  # tied: the other name fills it
        for weights in wrong:
            with pytest.raises(InputError, match=f"1 difference.*{key}") as raised:
                fill(target, weights)
            check_line(raised.value)
            assert sha256_state(target) == before


def test_the_first_five_differences_are_listed() -> None:
    with pytest.raises(InputError) as raised:
        fill(nn.Linear(2, 2), {f"extra{n}": torch.ones(1) for n in range(9)})
    line = check_line(raised.value)
    assert "11 differences" in line
    assert "missing weight, missing bias, extra extra0, extra extra1, extra extra2 and 6 more" in line
    with pytest.raises(InputError) as raised:
        fill(nn.Linear(2, 2), {f"\x1b[31m{n}" * 99: torch.ones(1) for n in range(9)})
    check_line(raised.value)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3, bias=False)
        self.decode = nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight
        self.transposed = nn.Parameter(self.encode.weight.detach().t())
        self.part = nn.Parameter(self.encode.weight.detach()[1:])
        self.other = nn.Parameter(torch.zeros(3, 3))


def test_tied_weights_may_be_left_out_but_not_contradict() -> None:
    value = torch.arange(9.0).view(3, 3)
    for key in ("encode.weight", "decode.weight"):
        module = Tied()
        fill(module, {key: value, "other": value})
        assert torch.equal(module.transposed, value.t())
        assert torch.equal(module.part, value[1:])
        assert torch.equal(module.decode.weight, value)
    with pytest.raises(InputError, match=r"3 differences .* missing transposed, missing encode"):
        fill(Tied(), {"part": value[1:], "other": value})  # a part does not fill the whole
    with pytest.raises(InputError, match="missing other"):
        fill(Tied(), {"encode.weight": value})
    with pytest.raises(InputError, match="is tied"):
        fill(Tied(), {"encode.weight": value, "decode.weight": value + 1, "other": value})


def test_only_floating_kinds_are_cast() -> None:
    module = nn.BatchNorm1d(2)
    state = module.state_dict()
    fill(module, {k: v.double() if v.is_floating_point() else v for k, v in state.items()})
    assert module.weight.dtype == torch.float32
    for key, kind in (
        ("weight", torch.int64),
        ("weight", torch.complex64),
        ("num_batches_tracked", torch.int32),
    ):
        with pytest.raises(InputError, match=f"{key} is {str(kind)[6:]} not"):
            fill(module, {**state, key: state[key].to(kind)})
    with pytest.raises(InputError, match="NaN or Inf"):
        fill(module, {**state, "weight": torch.tensor([1e300, 1.0], dtype=torch.float64)})


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_hash_of_a_state_sees_every_value_and_name(data) -> None:
    module = NETWORKS[data.draw(st.sampled_from(sorted(NETWORKS)))]()
    before = sha256_state(module)
    assert sha256_state(module.train()) == before
    state = module.state_dict()
    name = data.draw(st.sampled_from(sorted(state)))
    flat = state[name].view(-1)
    place = data.draw(st.integers(0, len(flat) - 1))
    flat[place] += 1
    assert sha256_state(module) != before
    flat[place] -= 1
    wrapped = nn.Sequential(module)
    assert sha256_state(wrapped) != before


def test_the_hash_of_a_file_is_of_its_bytes(file: Path) -> None:
    file.write_bytes(b"abc")
    assert sha256_file(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
