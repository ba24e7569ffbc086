"""Unlabelled inputs of any of three kinds, and a network's answers to them."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from candling.access.model import forward
from candling.access.modes import undisturbed
from candling.access.npz import read_arrays
from candling.access.wording import bad_input, shown
from candling.evidence.program import Kind, inputs_of
from candling.maths.formulas import Inputs


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Inputs on the CPU. Never change the tensor in place."""

    kind: Kind
    x: Tensor
    """Images float32 [n, C, H, W]; pairs int64 [n, 2]; sequences int64 [n, L]."""
    pool: Tensor | None = None
    """Images that programs name as exemplars; the inputs themselves unless given."""
    concepts: NDArray[np.int64] | None = None
    """[n, k] what somebody else sees in each input, if given."""

    @property
    def sha256(self) -> str:
        head = f"{self.kind} {list(self.x.shape)}".encode()
        concepts = b"" if self.concepts is None else self.concepts.tobytes()
        return hashlib.sha256(head + self.x.numpy().tobytes() + concepts).hexdigest()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor | NDArray[Any]) -> Unlabelled:
        """Some of the inputs; exemplars stay those of the whole."""
        index = torch.as_tensor(rows)
        concepts = None if self.concepts is None else self.concepts[index.numpy()]
        return replace(self, x=self.x[index], pool=self.exemplars, concepts=concepts)

    @property
    def exemplars(self) -> Tensor:
        return self.x if self.pool is None else self.pool

    @property
    def array(self) -> NDArray[Any]:
        return self.x.numpy()

    @cached_property
    def inputs(self) -> Inputs:
        """What the letters of formulas stand for."""
        return inputs_of(self.array, self.kind, self.exemplars.numpy(), self.concepts)


def read_unlabelled(path: str | Path, name: str = "x") -> Unlabelled:
    """The array `x` (or another) of an `.npz` file. Raises InputError as `unlabelled`, and for the file itself."""
    return unlabelled(read_arrays(Path(path), (name,))[name], f"{shown(path, 50)}: ")


def unlabelled(x: Any, where: str = "") -> Unlabelled:
    """Whole numbers [n, 2] are pairs, [n, L] sequences of tokens; [n, H, W] or [n, C, H, W] are images.

    Raises InputError for another shape, negative numbers, NaN or Inf, or fewer than 20 inputs.
    """
    values = np.asarray(x)
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3, 4) or 0 in values.shape:
        what = f"{where}x is {list(values.shape)} {values.dtype}"
        raise bad_input("data", f"{what}; give pairs [n, 2], sequences [n, L] or images [n, (C,) H, W]")
    if len(values) < 20:
        raise bad_input("data", f"{where}{len(values)} inputs; at least 20 are needed, better a thousand")
    if not np.isfinite(values).all():
        raise bad_input("data", f"{where}x has NaN or Inf")
    if values.ndim > 2:
        images = torch.from_numpy(np.array(values, dtype=np.float32))
        return Unlabelled("images", images.unsqueeze(1) if images.ndim == 3 else images)
    whole = values.astype(np.int64)
    if (whole != values).any() or (whole < 0).any() or values.shape[1] < 2:
        raise bad_input("data", f"{where}rows of {values.shape[1]} numbers must be whole numbers from 0, two or more")
    if int(whole.max()) >= 1 << 20:
        raise bad_input("data", f"{where}numbers up to {int(whole.max()):,}; the largest searched is 1,048,575")
    return Unlabelled("pairs" if whole.shape[1] == 2 else "sequences", torch.from_numpy(whole))


def read_labels(path: str | Path, name: str, n: int) -> NDArray[np.int64]:
    """int64 [n] from an `.npz` file. Raises InputError where there are not n whole numbers from 0."""
    where, labels = shown(path, 50), read_arrays(Path(path), (name,))[name]
    if labels.shape != (n,) or labels.dtype.kind not in "biu" or labels.min() < 0:
        what = f"{where}: {name} is {list(labels.shape)} {labels.dtype}"
        raise bad_input("data", f"{what}; give {n:,} whole numbers from 0")
    return labels.astype(np.int64)


def array_names(path: str | Path) -> list[str]:
    """Of an `.npz` file. Raises InputError for a file that is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as fault:
        raise bad_input("data", f"{shown(path, 60)} is not an .npz file that can be read") from fault


def fitted(module: nn.Module, data: Unlabelled) -> Unlabelled:
    """The inputs in the type that the network takes: whole numbers as they are, else as float32.

    Raises InputError where it takes neither, or gives no logits [n, classes] (or one logit each).
    """
    faults = []
    for x in dict.fromkeys((data.x, data.x.float())):
        try:
            with undisturbed(module):
                output = module(x[:4])
        except Exception as fault:
            faults.append(f"{type(fault).__name__}: {shown(fault, 60)}")
            continue
        if not isinstance(output, Tensor) or not output.is_floating_point() or len(output) != len(x[:4]):
            raise bad_input("data", "the network does not give float logits [n, classes]")
        if output.ndim > 2:
            raise bad_input("data", f"the network gives {list(output.shape)}, not logits [n, classes]")
        return replace(data, x=x)
    raise bad_input("data", f"the network fails on x of shape {list(data.x.shape)}: {faults[0]}")


def logits_of(module: nn.Module, x: Tensor) -> Tensor:
    """[n, K]; a single logit z becomes (0, z)."""
    return spread(forward(module, x))


def mean_gradient(module: nn.Module, x: Tensor, most: int = 512) -> NDArray[np.float64]:
    """[H, W] of the second logit over the first, or the largest over the mean, by the pixel; colours are averaged."""
    inputs = x[:most].clone().requires_grad_(True)
    with undisturbed(module, grad=True):
        logits = spread(module(inputs))
        lead = logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits.amax(1) - logits.mean(1)
        (gradient,) = torch.autograd.grad(lead.sum(), inputs)
    return gradient.mean((0, 1)).double().numpy()


def spread(logits: Tensor) -> Tensor:
    """The same of logits that are there already."""
    column = logits.unsqueeze(-1) if logits.ndim == 1 else logits
    return torch.cat([torch.zeros_like(column), column], 1) if column.shape[1] == 1 else column


def by_hash(data: Unlabelled, salt: str, shares: Sequence[float]) -> list[NDArray[np.intp]]:
    """Rows in parts of about these shares, by the hash of the row, so that equal rows stay together."""
    prefix = hashlib.sha256(salt.encode())
    place = np.empty(len(data))
    for number, row in enumerate((data.x + 0).flatten(1).numpy()):
        digest = prefix.copy()
        digest.update(row.tobytes())
        place[number] = int.from_bytes(digest.digest()[:8], "big") / 2**64
    ends = np.cumsum(shares) / sum(shares)
    starts = [0.0, *ends[:-1]]
    return [np.flatnonzero((place >= low) & (place < high)) for low, high in zip(starts, ends, strict=True)]
