"""LoRA adapters, merged into a copy of the network that they were trained on."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from candling.access.checkpoint import check_finite
from candling.access.folder import Folder, weight_files
from candling.access.wording import bad_input, listed, shown
from candling.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_READ = {
    "peft_type",
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
    "fan_in_fan_out",
    "bias",
    "init_lora_weights",
}
_PASSED_OVER = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("lora_dropout", "megatron_core", "qalora_group_size", "runtime_config"),
}
"""Keys that change nothing once an adapter is merged; none is followed."""

PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
"""A factor's name in a file: the prefix, the layer's path, and which factor it is."""


@dataclass(frozen=True)
class _Recipe:
    rank: int
    scale: float
    targets: list[str] | str


def merged(folder: Folder, reference: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of `reference` with W + scale·B·A in place of each adapted W, and notes.

    Raises InputError where the adapter is of another kind, incomplete, or does not fit the reference;
    UnsafeInputError where its weights are pickled.
    """
    _, fields = folder.json(CONFIG)
    recipe, notes = _recipe(fields)
    names = weight_files(folder, WEIGHTS)
    module = copy.deepcopy(reference)
    _check_keys(folder.shapes(names), recipe, module)
    weights = folder.weights(names)
    for path in sorted({_path(name) for name in weights}):
        a, b = (weights[f"{PREFIX}{path}{end}"].float() for end in (A, B))
        _add(module.get_submodule(path), recipe.scale * (b @ a))
    check_finite(module.state_dict().items(), "the merged network")
    return module, notes


def _add(part: nn.Module, change: Tensor) -> None:
    weight = part.weight
    assert isinstance(weight, nn.Parameter)
    change = change.T if _transposed(part) else change
    with torch.no_grad():
        weight.copy_((weight.to(torch.promote_types(weight.dtype, torch.float32)) + change).to(weight.dtype))


def _transposed(part: nn.Module) -> bool:
    """Whether the weight is [in, out], as in the layers of gpt2; whatever `fan_in_fan_out` says."""
    return type(part).__name__ == "Conv1D"


def _recipe(fields: Mapping[str, Any]) -> tuple[_Recipe, list[str]]:
    """What the config says, and notes. Raises InputError for anything but plain LoRA."""
    _check_plain(fields)
    rank, alpha, targets = (fields.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if type(rank) is not int or not 0 < rank < 2**20:
        raise _odd(fields, "r", "a count from 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e9:
        raise _odd(fields, "lora_alpha", "a number")
    if not isinstance(targets, list | str) or not targets or not all(isinstance(name, str) for name in targets):
        raise _odd(fields, "target_modules", "a list of names or one pattern")
    for key in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(fields.get(key, False), bool):
            raise _odd(fields, key, "true or false")
    followed = [key for key in ("base_model_name_or_path", "auto_mapping", "revision") if fields.get(key)]
    notes = [f"{CONFIG}: {listed(followed)} not followed"] if followed else []
    if isinstance(targets, str) and targets != "all-linear":
        notes.append(f"{CONFIG}: target_modules is a pattern; the adapter's tensors say which layers it meant")
    return _Recipe(rank, alpha / (math.sqrt(rank) if fields.get("use_rslora") else rank), targets), notes


def _check_plain(fields: Mapping[str, Any]) -> None:
    if fields.get("peft_type") != "LORA":
        raise _odd(fields, "peft_type", "LORA, the only kind known")
    exotic = sorted(shown(key) for key in fields.keys() - _READ - _PASSED_OVER if fields[key])
    if fields.get("bias", "none") != "none":
        exotic.append("bias")
    if fields.get("init_lora_weights", True) not in (True, False, "gaussian"):  # others change the reference
        exotic.append("init_lora_weights")
    if exotic:
        raise bad_input("adapter", f"{CONFIG} sets {listed(exotic, width=90)}; only plain LoRA is known")


def _odd(fields: Mapping[str, Any], key: str, needed: str) -> InputError:
    return bad_input("adapter", f"{CONFIG}: {key} is {shown(fields.get(key))}, not {needed}")


def _path(name: str) -> str:
    return name.removeprefix(PREFIX).removesuffix(A).removesuffix(B)


def _check_keys(shapes: Mapping[str, tuple[int, ...]], recipe: _Recipe, module: nn.Module) -> None:
    """Raises InputError with the first five differences between what the adapter holds and should hold."""
    layers = {path: part for path, part in module.named_modules() if adaptable(part)}
    wanted = _chosen(layers, recipe.targets, shapes)
    expected: dict[str, tuple[int, ...]] = {}
    for path in wanted:
        rows, columns = _size(layers[path])
        expected[f"{PREFIX}{path}{A}"] = (recipe.rank, columns)
        expected[f"{PREFIX}{path}{B}"] = (rows, recipe.rank)
    wrong = [f"missing {shown(name)}" for name in expected if name not in shapes]
    for name, shape in shapes.items():
        if name not in expected:
            wrong.append(f"extra {shown(name)}")
        elif shape != expected[name]:
            wrong.append(f"{shown(name)} is {list(shape)} not {list(expected[name])}")
    if wrong or not expected:
        what = f"{len(wrong):,}: {listed(wrong, width=135)}" if wrong else "everything: no layer is named"
        raise bad_input("adapter", f"the reference differs in {what}")


def _chosen(layers: Mapping[str, nn.Module], targets: list[str] | str, shapes: Iterable[str]) -> list[str]:
    """The layers that should be adapted. A pattern from a file is not run: it could take for ever."""
    if isinstance(targets, list):
        return [path for path in layers if any(path == name or path.endswith(f".{name}") for name in targets)]
    if targets == "all-linear":
        return [path for path in layers if "." in path]  # all but the head
    named = {_path(name) for name in shapes}
    return [path for path in layers if path in named]


def adaptable(part: nn.Module) -> bool:
    """Whether a layer is a linear map."""
    return isinstance(part, nn.Linear) or _transposed(part)


def _size(part: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a layer."""
    weight = part.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (columns, rows) if _transposed(part) else (rows, columns)
