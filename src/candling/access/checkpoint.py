"""Weights from safetensors files, and nothing else: judged by content, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from candling.access.content import open_file, runs_code
from candling.access.header import Entry, Malformed, entries, header_length
from candling.access.wording import bad_input, listed, shown, unsafe_input
from candling.errors import EnvironmentFault


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    The file is read once and no other parser sees it, so what was checked is what is returned.
    Raises UnsafeInputError for a pickle or zip archive under any name; InputError for a file that is
    missing, malformed in any way (see `header`), or holds NaN or Inf (naming the tensor and the count).
    """
    path = Path(path)
    where = shown(path, 60)
    with open_file(path, "weights") as file:
        found = _declared(file, where)
        data = bytearray(found[-1].end)
        if file.readinto(data) != len(data):
            raise bad_input("weights", f"{where} was cut short while it was read")
    weights = {entry.name: _tensor(entry, data, where) for entry in found}
    check_finite(weights.items(), where)
    return weights


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that a safetensors file declares; no tensor is read. Raises as `read_weights`."""
    path = Path(path)
    with open_file(path, "weights") as file:
        return {entry.name: entry.shape for entry in _declared(file, shown(path, 60))}


def _declared(file: BufferedReader, where: str) -> list[Entry]:
    """The tensors in file order, after every check of the header; the file stands at their first byte."""
    size = os.fstat(file.fileno()).st_size
    try:
        length = header_length(file.read(8), size)
        return entries(file.read(length), size - 8 - length)
    except Malformed as fault:
        if runs_code(file):
            raise unsafe_input(
                "weights",
                f"{where} is a pickle or zip, which could run code: use "
                "candling convert IN.pt OUT.safetensors, or safetensors.torch.save_file",
            ) from None
        raise bad_input("weights", f"{where}: {fault}") from None


def _tensor(entry: Entry, data: bytearray, where: str) -> Tensor:
    count = (entry.end - entry.begin) // entry.dtype.itemsize
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.dtype == torch.bool:
        raw = torch.frombuffer(data, dtype=torch.uint8, count=count, offset=entry.begin)
        odd = int((raw > 1).count_nonzero())
        if odd:
            raise bad_input(
                "weights", f"{where}: tensor {shown(entry.name)} has {odd:,} BOOL bytes other than 0 and 1"
            )
    flat = torch.frombuffer(data, dtype=entry.dtype, count=count, offset=entry.begin)
    aligned = flat.clone() if entry.begin % entry.dtype.itemsize else flat
    return aligned.view(entry.shape)


def check_finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raises InputError, naming the first tensor with a NaN or Inf and how many it has."""
    for name, tensor in tensors:
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch has no isfinite for 8-bit floats
        bad = tensor.numel() - int(torch.isfinite(wide).count_nonzero())
        if bad:
            raise bad_input(
                "weights",
                f"{where}: tensor {shown(name)} has {bad:,} NaN or Inf of {tensor.numel():,} values",
            )


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`: every tensor of its state must be given, in shape, and no other.

    Floating kinds are cast to the module's. A missing tensor that lives inside the memory of a given one
    (tied weights) is no difference. Raises InputError with the first five differences, before any change;
    also where a cast overflows, or where weights that the network ties differ.
    """
    expected = module.state_dict()
    wrong = list(_differences(expected, weights))
    if wrong:
        count = f"{len(wrong)} difference{'s' if len(wrong) > 1 else ''}"
        raise bad_input("weights", f"{count} between weights and network: {listed(wrong)}")
    cast = {name: value.to(expected[name].dtype) for name, value in weights.items()}
    check_finite(cast.items(), "cast to the network's dtype")
    try:
        module.load_state_dict({**expected, **cast}, strict=True)
    except Exception as fault:  # a network may refuse in a load hook of its own
        raise bad_input("weights", f"the network refused them: {shown(fault, 120)}") from fault
    loaded = module.state_dict()
    for name, value in cast.items():
        if not torch.equal(loaded[name], value.to(loaded[name].device)):
            raise bad_input("weights", f"{shown(name)} is tied in the network to a tensor with other values")


def _differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    given = [expected[name] for name in weights if name in expected]
    for name, tensor in expected.items():
        if not isinstance(tensor, Tensor):  # a module's own extra state is no weight
            continue
        if name not in weights:
            if not any(_covers(other, tensor) for other in given):
                yield f"missing {shown(name)}"
            continue
        value = weights[name]
        if value.shape != tensor.shape:
            yield f"{shown(name)} is {list(value.shape)} not {list(tensor.shape)}"
        elif value.dtype != tensor.dtype and not (value.is_floating_point() and tensor.is_floating_point()):
            yield f"{shown(name)} is {_kind(value)} not {_kind(tensor)}"
    yield from (f"extra {shown(name)}" for name in weights if name not in expected)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _covers(given: object, missing: Tensor) -> bool:
    """Whether filling `given` fills all of `missing`: the same memory, or a gapless stretch around it."""
    if not isinstance(given, Tensor) or given.data_ptr() == 0 or given.device != missing.device:
        return False
    start, end = _stretch(given)
    gapless = end - start == given.numel() * given.element_size()
    same = given.shape == missing.shape and given.stride() == missing.stride()
    inside = start <= _stretch(missing)[0] and _stretch(missing)[1] <= end
    return inside and (gapless or same)


def _stretch(tensor: Tensor) -> tuple[int, int]:
    """First address of the tensor's values and the address after its last."""
    span = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()


def sha256_file(path: str | Path) -> str:
    """SHA-256 of the file's bytes, in hex. Raises InputError if it cannot be opened."""
    with open_file(Path(path), "file") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_state(module: nn.Module) -> str:
    """SHA-256, in hex, of a module's state: for each name in order, its dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(json.dumps([name, _kind(tensor), list(tensor.shape)]).encode())
            digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """The tensor's values in row order, as bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def write_weights(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """A state as a safetensors file, shared tensors written out for each name. Raises EnvironmentFault."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
    try:
        save_file(tensors, path)
    except (OSError, SafetensorError) as fault:
        raise EnvironmentFault("write", f"cannot write {shown(path, 60)}: {shown(fault, 80)}") from fault
