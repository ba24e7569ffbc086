"""Pickles become safetensors, or are refused with the right code; nothing in them ever runs."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from nets import check_line
from torch import nn

from candling.access import convert, read_weights
from candling.access.convert import _check_status
from candling.access.unpickle import DAMAGED, MEMORY, STRUCTURE, UNSAFE, WRITE
from candling.errors import CandlingError, EnvironmentFault, InputError, UnsafeInputError


class Acts:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def refusal(source: Path, kind: type[CandlingError], says: str = "", **limits: int) -> None:
    target = source.with_name("made.safetensors")
    before = sorted(source.parent.iterdir())
    with pytest.raises(CandlingError) as raised:
        convert(source, target, **limits)
    assert type(raised.value) is kind, raised.value
    line = check_line(raised.value)
    assert says in line
    assert "weights_only" not in line
    assert sorted(source.parent.iterdir()) == before


def test_a_state_survives(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    net[0].weight = nn.Parameter(net[0].weight.detach().t().contiguous().t())  # not contiguous
    state = net.state_dict() | {
        "tied": net[0].weight.detach(),
        "none": torch.ones(0, 3),
        "half": torch.ones(2).half(),
    }
    torch.save({"state_dict": OrderedDict(state)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    made = tmp_path / "made.safetensors"
    assert sorted(convert(tmp_path / "old.pt", made)) == sorted(state)
    read = read_weights(made)
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.safetensors", "old.pt"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from candling.cli import app

    torch.save({"w": nn.Parameter(torch.ones(3))}, tmp_path / "a.pt")
    app(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.st")], standalone_mode=False)
    assert capsys.readouterr().out == f"1 tensors in {tmp_path / 'b.st'}\n"
    assert torch.equal(read_weights(tmp_path / "b.st")["w"], torch.ones(3))


@pytest.mark.parametrize("archive", [True, False])
def test_code_is_refused_and_never_run(tmp_path: Path, archive: bool) -> None:
    source, canary = tmp_path / "a.pt", tmp_path / "canary"
    torch.save({"w": torch.ones(3), "x": Acts(canary)}, source, _use_new_zipfile_serialization=archive)
    refusal(source, UnsafeInputError, "could run code")
    torch.load(source, weights_only=False)  # the positive control
    assert canary.exists()


def test_a_whole_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    refusal(tmp_path / "a.pt", UnsafeInputError)


def shared_references() -> object:
    value: object = ()
    for _ in range(60):
        value = (value, value)
    return value


STRUCTURES = {
    "a tensor": lambda: torch.ones(3),
    "a list": lambda: [torch.ones(3)],
    "nothing": dict,
    "a number among them": lambda: {"w": torch.ones(3), "epoch": 5},
    "two levels": lambda: {"a": {"w": torch.ones(3)}},
    "more beside a state_dict": lambda: {"state_dict": {"w": torch.ones(3)}, "epoch": 5},
    "a name that is none": lambda: {5: torch.ones(3)},
    "the name of the header": lambda: {"__metadata__": torch.ones(3)},
    "a sparse tensor": lambda: {"w": torch.eye(3).to_sparse()},
    "a stretched tensor": lambda: {"w": torch.ones(1).expand(10**6, 10**6)},
    "references that would print for ever": lambda: {"w": shared_references()},
}


@pytest.mark.parametrize(
    "kind", ["a number among them", "a stretched tensor", "references that would print for ever"]
)
def test_anything_but_a_map_of_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    torch.save(STRUCTURES[kind](), tmp_path / "a.pt")
    refusal(tmp_path / "a.pt", InputError, "flat map")


@pytest.mark.parametrize("kind", STRUCTURES)
def test_the_childs_own_check_says_the_same(kind: str) -> None:
    from candling.access.unpickle import _flat

    assert _flat(STRUCTURES[kind](), torch.Tensor, nn.Parameter) is None
    assert _flat({"w": torch.ones(3).t()}, torch.Tensor, nn.Parameter)


def archive(path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in members:
            made.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_are_judged_by_their_directory(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.ones(3)}, source)
    inner = source.read_bytes()
    plain = ("a/data.pkl", pickle.dumps({}, 2))
    for members, compression, says in (
        ([plain, plain], zipfile.ZIP_STORED, "2 times"),
        ([plain, ("a/data/0", bytes(10_000_000))], zipfile.ZIP_DEFLATED, "compressed"),
        ([plain, ("a/data/0", inner)], zipfile.ZIP_STORED, "is an archive"),
    ):
        archive(source, members, compression)
        refusal(source, UnsafeInputError, says)
    archive(source, [plain])
    content = source.read_bytes()
    at = content.index(b"PK\x01\x02")
    for place in (20, 24):  # the sizes that the directory claims
        wrong = content[: at + place] + (2**31).to_bytes(4, "little") + content[at + place + 4 :]
        source.write_bytes(wrong)
        refusal(source, UnsafeInputError, "claim")


def test_what_is_no_pickle_or_damaged(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    for content in (b"", b"hello, hello", bytes(100)):
        source.write_bytes(content)
        refusal(source, InputError)
    torch.save({"w": torch.ones(3)}, source)
    source.write_bytes(source.read_bytes()[:300])
    refusal(source, InputError, "damaged")
    refusal(tmp_path, InputError)


def test_not_a_number_is_refused_after_all(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([torch.nan])}, tmp_path / "a.pt")
    refusal(tmp_path / "a.pt", InputError, "NaN")


def test_limits(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.ones(15_000_000)}, source)
    refusal(source, EnvironmentFault, "raise the limits", megabytes=50)
    nested: object = ()
    for _ in range(60):
        nested = (nested, nested)
    source.write_bytes(_as_key(nested))
    refusal(source, EnvironmentFault, "1 s", seconds=1)


def _as_key(value: object) -> bytes:
    """A pickle that hashes `value`: a tuple of shared tuples takes for ever."""
    body = pickle.dumps(value, 2)
    return b"\x80\x02}" + body[2:-1] + b"Ns."


def test_a_target_that_exists_or_cannot_be_written(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    (tmp_path / "there").write_text("kept")
    with pytest.raises(InputError, match="there already"):
        convert(tmp_path / "a.pt", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "kept"
    with pytest.raises(EnvironmentFault) as raised:
        convert(tmp_path / "a.pt", tmp_path / "none" / "x")
    check_line(raised.value)


def test_each_answer_of_the_child_has_its_error() -> None:
    kinds = {UNSAFE: UnsafeInputError, STRUCTURE: InputError, DAMAGED: InputError, -11: InputError, 1: InputError}
    for status, kind in {**kinds, MEMORY: EnvironmentFault, WRITE: EnvironmentFault, -9: EnvironmentFault}.items():
        with pytest.raises(kind) as raised:
            _check_status(status, "a.pt", 1, 1)
        check_line(raised.value)
    _check_status(0, "a.pt", 1, 1)
