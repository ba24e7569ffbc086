"""Files of a downloaded folder: plain names only, no link that leads out, each hashed as it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from candling.access.checkpoint import read_shapes, read_weights, sha256_file
from candling.access.content import open_file
from candling.access.wording import bad_input, listed, shown, unsafe_input

MAX_CONFIG = 4 << 20
MAX_TOKENIZER = 64 << 20
INDEX = "model.safetensors.index.json"

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WANTED = ["*.json", "*.safetensors", "tokenizer*", "chat_template.jinja"]
_UNWANTED = ["*.bin", "*.py", "*/*"]


def parse_json(text: str) -> Any:
    """Strict JSON: raises ValueError (one line) for a repeated key, NaN, half a character, or deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except json.JSONDecodeError as fault:
        raise ValueError(f"not JSON ({shown(fault.msg)})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return fields


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


class Folder:
    """A folder that is read file by file. `files` fills with the SHA-256 of each file that was read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, str] = {}

    def __str__(self) -> str:
        return shown(self.root, 60)

    def has(self, name: str) -> bool:
        return (self.root / name).exists() or (self.root / name).is_symlink()

    def path(self, name: str) -> Path:
        """The file's path. Raises UnsafeInputError for a name or a link that leads out of the folder."""
        if not re.fullmatch(r"[\w.][\w .+-]*", name) or set(name) == {"."}:
            raise unsafe_input("folder", f"{self} names the file {shown(name)}, which is no plain file name")
        path = self.root / name
        try:
            real, root = path.resolve(), self.root.resolve()
        except (OSError, RuntimeError):  # a loop of links
            raise unsafe_input("folder", f"{self}: {shown(name)} is a link that leads nowhere") from None
        cached = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root  # the hub's own cache
        if real.parent not in (root, cached):
            raise unsafe_input("folder", f"{self}: {shown(name)} is a link that leads out of the folder")
        return path

    def json(self, name: str, limit: int = MAX_CONFIG) -> tuple[str, dict[str, Any]]:
        """A file's text and the JSON object in it. Raises InputError: missing, too large, malformed."""
        text = self.text(name, limit)
        try:
            fields = parse_json(text)
        except ValueError as fault:
            raise bad_input("folder", f"{self}: {name}: {shown(fault, 80)}") from None
        if not isinstance(fields, dict):
            raise bad_input("folder", f"{self}: {name} is no JSON object")
        return text, fields

    def text(self, name: str, limit: int = MAX_CONFIG) -> str:
        """A file's text. Raises InputError: missing, too large, not UTF-8."""
        with open_file(self.path(name), "folder") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise bad_input("folder", f"{self}: {name} is larger than {limit >> 20} MB")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise bad_input("folder", f"{self}: {name} is not UTF-8 at byte {fault.start:,}") from None
        self.files[name] = hashlib.sha256(content).hexdigest()
        return text

    def shapes(self, names: list[str]) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, from the headers of these files. Raises InputError where two share a name."""
        found: dict[str, tuple[int, ...]] = {}
        for name in names:
            for tensor, shape in read_shapes(self.path(name)).items():
                if tensor in found:
                    raise bad_input("weights", f"{self}: two files hold the tensor {shown(tensor)}")
                found[tensor] = shape
        return found

    def weights(self, names: list[str]) -> dict[str, Tensor]:
        """The tensors of all these files. Raises as `read_weights` does."""
        found: dict[str, Tensor] = {}
        for name in names:
            path = self.path(name)
            before = sha256_file(path)
            found.update(read_weights(path))
            self.files[name] = sha256_file(path)
            if self.files[name] != before:
                raise bad_input("weights", f"{self}: {name} changed while it was read")
        return found


def weight_files(folder: Folder, single: str = "model.safetensors") -> list[str]:
    """The names of the files with the weights: one, or the shards that the index names.

    Raises UnsafeInputError where there are pickles only, or the index names a shard that is missing or
    not in the folder; InputError where there are no weights or the index contradicts its shards.
    """
    if folder.has(single):
        return [single]
    if single == "model.safetensors" and folder.has(INDEX):
        return _shards(folder)
    try:
        pickled = sorted(path.name for path in folder.root.iterdir() if path.suffix.lower() in _PICKLED)
    except OSError as fault:
        raise bad_input("folder", f"{folder} cannot be listed: {shown(fault.strerror)}") from None
    if pickled:
        raise unsafe_input(
            "weights",
            f"{folder}: {shown(pickled[0], 32)} is a pickle, which could run code; convert it: "
            "candling convert IN.pt OUT.safetensors",
        )
    raise bad_input("weights", f"{folder} holds no {single}")


def _shards(folder: Folder) -> list[str]:
    _, index = folder.json(INDEX, MAX_TOKENIZER)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise bad_input("weights", f"{folder}: {INDEX} has no weight_map from tensors to files")
    names = sorted(set(places.values()))
    for name in names:
        if not name.endswith(".safetensors") or not folder.path(name).is_file():
            raise unsafe_input(
                "weights", f"{folder}: {INDEX} names {shown(name)}, which is no safetensors file there"
            )
    for name in names:
        declared, listed_here = set(folder.shapes([name])), {key for key, value in places.items() if value == name}
        if declared != listed_here:
            wrong = sorted(shown(key) for key in declared ^ listed_here)
            raise bad_input("weights", f"{folder}: {INDEX} and {name} differ in {listed(wrong)}")
    return names


_REMOTE_KEYS = {
    "auto_map",
    "trust_remote_code",
    "custom_pipelines",
    "custom_generate",
    "remote_code",
    "code_revision",
}
_ORIGINS = {"_name_or_path", "name_or_path", "base_model_name_or_path", "_commit_hash"}
_KINDS = {"dtype", "torch_dtype"}
_REMOTE = re.compile(r"[/\\:]|--|\.py$|^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


def check_harmless(config: dict[str, Any], what: str) -> None:
    """Raises UnsafeInputError for a key or value that names a repository, or code to import."""
    for key, value in _walk(config):
        if key in _REMOTE_KEYS:
            raise unsafe_input("config", f"{what} has {key}, which asks for foreign code; it is never run")
        if isinstance(value, str) and key not in _ORIGINS | _KINDS and _REMOTE.search(value):
            raise unsafe_input(
                "config", f"{what}: {shown(key)} names {shown(value)}, a repository or code to import; remove it"
            )


def _walk(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; items of a list go by the list's key."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, dict):
            waiting.extend(value.items())
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)


def located(path: str | Path) -> Path:
    """An existing folder, or the hub's repository `owner/name` once fetched: JSON and safetensors only.

    Raises InputError where there is neither.
    """
    try:
        if Path(path).is_dir():
            return Path(path)
        exists = Path(path).exists()
    except (OSError, ValueError):
        exists = True
    if exists or not _HUB_ID.fullmatch(str(path)):
        raise bad_input("folder", f"no such folder: {shown(path, 60)}")
    return _fetched(str(path))


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, etag_timeout=10))
    except Exception as fault:  # no network, no such repository, no access: a dozen kinds
        kind = type(fault).__name__
        raise bad_input(
            "folder", f"{shown(name, 60)} is no folder here and cannot be fetched ({kind}); give a folder"
        ) from None
