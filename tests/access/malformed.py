"""Makes malformed inputs by the hundred and opens them all in this one process, watched by an audit hook.

Run as `python malformed.py FOLDER SEEDS`; prints one JSON object of what happened.
"""

import codecs
import gzip
import io
import json
import os
import pickle
import random
import shutil
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from languages import SETTINGS, VOCABULARY, change, save

from candling.access import LanguageModel, convert, load_language, read_npz, read_texts, read_weights
from candling.errors import CandlingError

torch.set_num_threads(1)
warnings.simplefilter("ignore")

CANARY_MODULE = "canary_that_sings"
KINDS = sorted(SETTINGS)

# --- payloads ----------------------------------------------------------------------------------------------


class Acts:
    """Leaves a mark when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> object:
        return os.system, (f"touch {self.canary}",)


def payload(rng: random.Random, canary: Path) -> bytes:
    """A pickle that acts, in one of several dialects."""
    path = str(canary).encode()
    return rng.choice(
        [
            *(pickle.dumps(Acts(canary), protocol) for protocol in range(6)),
            *(pickle.dumps({"w": [1.0, Acts(canary)]}, protocol) for protocol in range(6)),
            b"cos\nsystem\n(S'touch " + path + b"'\ntR.",
            b"(S'touch " + path + b"'\nios\nsystem\n.",
            b"(cos\nsystem\nS'touch " + path + b"'\no.",
            b"c" + CANARY_MODULE.encode() + b"\nsing\n(tR.",
            b"\x80\x04\x8c\x11" + CANARY_MODULE.encode() + b"\x8c\x04sing\x93)R.",
        ]
    )


def broken_tail(rng: random.Random, pickled: bytes) -> bytes:
    return pickled[:-1] + rng.choice([b"", b"\xff", b"0" * 9])


# --- one file ----------------------------------------------------------------------------------------------

Made = tuple[Callable[[], object], set[int]]
"""What opens the input, and the exit codes that are right."""
Make = Callable[[random.Random, Path, "Bases"], Made]


class Bases:
    """Sound inputs to spoil."""

    def __init__(self, root: Path) -> None:
        self.canary = root / "canary"
        self.folders = {kind: root / "base" / kind for kind in KINDS}
        for kind in KINDS:
            save(kind, self.folders[kind])
        self.references: dict[str, LanguageModel] = {kind: load_language(self.folders[kind]) for kind in KINDS}
        self.weights = safetensors.torch.save(
            {"a": torch.ones(3), "b": torch.arange(4), "c": torch.tensor([True, False])}
        )

    def copy(self, kind: str, path: Path) -> Path:
        return Path(shutil.copytree(self.folders[kind], path))


def weights_file(code: int, edit: Callable[[random.Random, bytes], bytes]) -> Make:
    def make(rng: random.Random, path: Path, bases: Bases) -> Made:
        path.write_bytes(edit(rng, bases.weights))
        return lambda: read_weights(path), {code}

    return make


def header(rng: random.Random, content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(fields: object, data: bytes) -> bytes:
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


def bad_entry(rng: random.Random, content: bytes) -> bytes:
    fields, data = header(rng, content)
    entry = fields[rng.choice("abc")]
    entry[rng.choice(["dtype", "shape", "data_offsets"])] = rng.choice(
        [None, -1, [], "F31", [-1], [2**63], [2**40, 2**40], [1.5], [[1]], {}, [0, 10**9], [9, 3], "\x1b[31m", [7, 7]]
    )
    return packed(fields, data)


def bad_header(rng: random.Random, content: bytes) -> bytes:
    fields, data = header(rng, content)
    text = json.dumps(fields)
    odd = [text + "}", text[:-2], "[" * 50_000, "[]", "{}", '{"__metadata__": 5}', "\ufeff" + text]
    odd += [text.replace('"a"', other) for other in ('"b"', '""', '"\\ud800"')] + [text.replace("[3]", "[NaN]")]
    text = rng.choice(odd)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


def not_finite(rng: random.Random, content: bytes) -> bytes:
    values = torch.ones(rng.randrange(1, 50))
    values[rng.randrange(len(values))] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return safetensors.torch.save(
        {"\u202ew" * rng.randrange(1, 40): values.to(rng.choice([torch.half, torch.double]))}
    )


def zipped(rng: random.Random, content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        archive.writestr("w.safetensors", content)
    return rng.choice([made.getvalue(), made.getvalue()[:40], b"#!x\n" + made.getvalue(), content + made.getvalue()])


def text_noise(rng: random.Random, content: bytes) -> bytes:
    return bytes(rng.choice(b"hello, world\n ") for _ in range(rng.randrange(9, 400)))


# --- torch's own files, arrays, texts -----------------------------------------------------------------------


def pickled_file(suffix: str, tail: bool) -> Make:
    def make(rng: random.Random, path: Path, bases: Bases) -> Made:
        path = path.with_name(path.name + suffix)
        content = payload(rng, bases.canary)
        path.write_bytes(broken_tail(rng, content) if tail else content)
        return lambda: (read_npz if suffix == ".npz" else read_weights)(path), {3}

    return make


def torch_file(rng: random.Random, path: Path, bases: Bases) -> Made:
    content = {"w": torch.ones(3), "x": Acts(bases.canary)}
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.5)
    return lambda: read_weights(path), {3}


def odd_archive(rng: random.Random, path: Path, bases: Bases) -> Made:
    """For `convert`: refused from the directory, before a child is started."""
    way = rng.randrange(4)
    members = [("a/data.pkl", payload(rng, bases.canary)), ("a/version", b"3")]
    members += [[("a/version", b"4")], [("a/data/0", zipped(random.Random(0), b"x")[:50] or b"")], [], []][way]
    if way == 1:
        members[-1] = ("a/data/0", gzip.compress(bytes(9)))
    how = zipfile.ZIP_DEFLATED if way == 2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, bytes(30_000_000) if way == 2 and name == "a/version" else content)
    if way == 3:
        content = path.read_bytes()
        at = content.index(b"PK\x01\x02") + 24
        path.write_bytes(content[:at] + rng.randrange(2**30, 2**32 - 2).to_bytes(4, "little") + content[at + 4 :])
    return lambda: convert(path, path.with_name(path.name + ".out")), {3}


def no_archive(rng: random.Random, path: Path, bases: Bases) -> Made:
    path.write_bytes(rng.choice([b"", bases.weights, b"hello" * 9, bytes(rng.randrange(1, 99))]))
    return lambda: convert(path, path.with_name(path.name + ".out")), {2}


def arrays(rng: random.Random, path: Path, bases: Bases) -> Made:
    path = path.with_name(path.name + ".npz")
    x, y = np.ones((6, 2), np.float32), np.array([0, 1] * 3)
    odd: dict[str, Any] = rng.choice(
        [
            {"x": x},
            {"x": x, "y": y[:3]},
            {"x": x * np.nan, "y": y},
            {"x": x[:0], "y": y[:0]},
            {"x": x, "y": y * 0},
            {"x": x, "y": y - 1},
            {"x": x, "y": y.astype(float)},
            {"x": x.astype("U"), "y": y},
            {"x": x[:, :, None, None, None], "y": y},
        ]
    )
    np.savez(path, **odd)
    return lambda: read_npz(path), {2}


def object_arrays(rng: random.Random, path: Path, bases: Bases) -> Made:
    path = path.with_name(path.name + ".npz")
    held = np.array([Acts(bases.canary), 5], object)
    np.savez(path, x=np.ones((2, 2)) if rng.random() < 0.5 else held, y=held)
    return lambda: read_npz(path), {3}


def damaged_arrays(rng: random.Random, path: Path, bases: Bases) -> Made:
    path = path.with_name(path.name + ".npz")
    np.savez(path, x=np.ones((6, 2), np.float32), y=np.array([0, 1] * 3))
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) - 30)])
    return lambda: read_npz(path), {2}


BAD_LINES = [b"\xff", b"{", b"", b"[]", b"5", b"null", b'{"text": ""}', b'{"text": 5}', b'{"text": "\\ud800"}']
BAD_LINES += [b'{"text": "\\u0000"}', b'{"text": "a", "text": "b"}', b'{"t": "a"}', b'{"prompt": "a"}', b"[" * 90_000]
BAD_LINES += [
    b'{"text": "' + b"a" * (1 << 20) + b'"}',
    b'{"text": NaN}',
    b"\x80\x04N.",
    b'{"text": "a"}\r{"text": 1}',
]


def lines(rng: random.Random, path: Path, bases: Bases) -> Made:
    good = [json.dumps({"text": f"story {n}"}).encode() for n in range(rng.randrange(5))]
    good.insert(rng.randrange(len(good) + 1), rng.choice(BAD_LINES))
    path.write_bytes(b"\n".join(good) + b"\n")
    return lambda: read_texts(path), {2}


# --- folders -----------------------------------------------------------------------------------------------


def folder(codes: set[int], spoil: Callable[[random.Random, Path, Bases], None]) -> Make:
    def make(rng: random.Random, path: Path, bases: Bases) -> Made:
        copied = bases.copy(rng.choice(KINDS), path)
        spoil(rng, copied, bases)
        return lambda: load_language(copied), codes

    return make


def remote_code(rng: random.Random, path: Path, bases: Bases) -> None:
    (path / "modeling.py").write_text(f"import {CANARY_MODULE}\n{CANARY_MODULE}.sing()\n")
    key, value = rng.choice(
        [
            ("auto_map", {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}),
            ("auto_map", {"AutoModelForCausalLM": "someone/else--modeling.Model"}),
            ("trust_remote_code", True),
            ("custom_pipelines", {"p": {"impl": "modeling.Pipe"}}),
            ("_attn_implementation", "someone/kernel"),
            ("attn_implementation", "someone/kernel:main"),
            ("hidden_act", f"{CANARY_MODULE}.sing"),
            ("rope_scaling", {"type": "https://example.org/x"}),
            ("model_file", "modeling.py"),
        ]
    )
    change(path / "config.json", **{key: value})


def bad_config(rng: random.Random, path: Path, bases: Bases) -> None:
    key = rng.choice(["vocab_size", "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "model_type"])
    fields = json.loads((path / "config.json").read_text())
    key = key if key in fields else "model_type"
    change(
        path / "config.json", **{key: rng.choice([0, -1, 10**12, 2**31 - 1, "32", [], {}, 1.5, True, "t5", 10**40])}
    )


def bad_json(rng: random.Random, path: Path, bases: Bases) -> None:
    target = path / rng.choice(["config.json", "tokenizer.json"])
    content = target.read_bytes()
    odd = [
        b"",
        b"[]",
        b"{",
        b"\xff{}",
        b'{"a":1,"a":2}',
        b'{"a":' * 90_000,
        b'{"model_type": NaN}',
        b" " * (65 << 20),
    ]
    odd += [content[: rng.randrange(len(content) - 3)], payload(rng, bases.canary), content + b"{}"]
    target.write_bytes(rng.choice(odd))


def bad_tokenizer(rng: random.Random, path: Path, bases: Bases) -> None:
    target = path / "tokenizer.json"
    fields = json.loads(target.read_text())
    way = rng.randrange(4)
    if way == 0:
        fields["model"]["vocab"]["\u202eodd"] = VOCABULARY + rng.randrange(2**31)
    elif way == 1:
        fields["model"] = rng.choice([None, {}, {"type": "Other"}, {"type": "BPE", "vocab": 5}, "BPE"])
    elif way == 2:
        fields["model"]["merges"] = [["nothing", "there"]]
    else:
        fields["decoder"] = {"type": f"{CANARY_MODULE}.sing"}
    target.write_text(json.dumps(fields))


def bad_state(rng: random.Random, path: Path, bases: Bases) -> None:
    target = path / "model.safetensors"
    state = safetensors.torch.load(target.read_bytes())
    name = rng.choice(sorted(name for name in state if "layers.1" in name or "h.1" in name))
    way = rng.randrange(4)
    if way == 0:
        del state[name]
    elif way == 1:
        state["\x1b]0;title\x07" + name] = torch.ones(2)
    elif way == 2:
        state[name] = torch.ones(7, 5)
    else:
        state[name] = torch.full_like(state[name], float("inf"))
    target.write_bytes(safetensors.torch.save(state))


def pickle_for_weights(rng: random.Random, path: Path, bases: Bases) -> None:
    (path / "model.safetensors").unlink()
    name = rng.choice(["pytorch_model.bin", "model.safetensors", "model.pt", "consolidated.00.pth"])
    (path / name).write_bytes(payload(rng, bases.canary))


def hostile_index(rng: random.Random, path: Path, bases: Bases) -> None:
    state = safetensors.torch.load((path / "model.safetensors").read_bytes())
    (path / "model.safetensors").rename(path / "part.safetensors")
    shutil.copy(path / "part.safetensors", path.parent / "outside.safetensors")
    names = ["../outside.safetensors", str(path.parent / "outside.safetensors"), "missing.safetensors", "pytorch.bin"]
    names += ["./part.safetensors", "..\\outside.safetensors", "a/../part.safetensors", "~/x.safetensors"]
    where = rng.choice([*names, "\x1b[2J.safetensors"])
    places = dict.fromkeys(state, "part.safetensors") | {rng.choice(sorted(state)): where}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def link_out(rng: random.Random, path: Path, bases: Bases) -> None:
    name = rng.choice(["config.json", "tokenizer.json", "model.safetensors"])
    outside = path.parent / f"{path.name}-{name}"
    (path / name).rename(outside)
    (path / name).symlink_to(rng.choice([outside, f"../{outside.name}"]))


def adapter(
    codes: set[int], spoil: Callable[[random.Random, Path, dict[str, Any], dict[str, Any], Bases], None]
) -> Make:
    def make(rng: random.Random, path: Path, bases: Bases) -> Made:
        kind = rng.choice(["llama", "mistral", "qwen2", "qwen3"])
        state: dict[str, Any] = {}
        for name, part in bases.references[kind].model.module.named_modules():
            if name.endswith(".q_proj"):
                rows, columns = part.weight.shape
                state[f"base_model.model.{name}.lora_A.weight"] = torch.ones(2, columns)
                state[f"base_model.model.{name}.lora_B.weight"] = torch.ones(rows, 2)
        config: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        path.mkdir()
        spoil(rng, path, config, state, bases)
        (path / "adapter_config.json").write_text(json.dumps(config))
        if state:
            safetensors.torch.save_file(state, path / "adapter_model.safetensors")
        return lambda: load_language(path, reference=bases.references[kind]), codes

    return make


def bad_recipe(rng: random.Random, path: Path, config: dict[str, Any], state: dict[str, Any], bases: Bases) -> None:
    targets = rng.choice([None, [], 5, ["k_proj"], ["q_proj", "v_proj"], ["x" * 999]])
    odd: list[tuple[str, Any]] = [("peft_type", "PREFIX_TUNING"), ("lora_alpha", [4]), ("target_modules", targets)]
    odd += [
        ("r", rng.choice([0, -1, 3, 10**9, "2", None])),
        ("megatron_config", {"m": CANARY_MODULE}),
        ("bias", "all"),
    ]
    odd += [("use_dora", True), ("rank_pattern", {"(a*)*": 2}), ("layers_to_transform", [0]), ("use_rslora", "yes")]
    key, value = rng.choice([*odd, ("init_lora_weights", "olora"), ("\x1b[31mx", 1)])
    config[key] = value


def bad_adapter(rng: random.Random, path: Path, config: dict[str, Any], state: dict[str, Any], bases: Bases) -> None:
    name = rng.choice(sorted(state))
    way = rng.randrange(4)
    if way == 0:
        del state[name]
    elif way == 1:
        state[name.replace("q_proj", rng.choice(["x_proj", "k_proj", "__class__"]))] = torch.ones(2)
    elif way == 2:
        state[name] = torch.ones(2, 2)
    else:
        state[name] = torch.full_like(state[name], float("nan"))


def pickled_adapter(
    rng: random.Random, path: Path, config: dict[str, Any], state: dict[str, Any], bases: Bases
) -> None:
    state.clear()
    config["auto_mapping"] = {"base_model_class": "sing", "parent_library": CANARY_MODULE}
    name = rng.choice(["adapter_model.bin", "adapter_model.safetensors"])
    (path / name).write_bytes(payload(rng, bases.canary))


GENERATORS: dict[str, Make] = {
    "safetensors, truncated": weights_file(2, lambda rng, content: content[: rng.randrange(len(content) - 1)]),
    "safetensors, more bytes": weights_file(2, lambda rng, content: content + rng.randbytes(rng.randrange(1, 9))),
    "safetensors, header length": weights_file(
        2, lambda rng, content: rng.randrange(10**4, 2**64 - 1).to_bytes(8, "little") + content[8:]
    ),
    "safetensors, an entry": weights_file(2, bad_entry),
    "safetensors, the header": weights_file(2, bad_header),
    "safetensors, not finite": weights_file(2, not_finite),
    "safetensors, in a zip": weights_file(3, zipped),
    "text for weights": weights_file(2, text_noise),
    **{
        f"pickle as {end or 'nothing'}": pickled_file(end, False)
        for end in (".safetensors", ".pt", ".bin", "", ".npz")
    },
    **{f"broken pickle as {end}": pickled_file(end, True) for end in (".safetensors", ".pt")},
    "torch.save with code": torch_file,
    "convert, odd archive": odd_archive,
    "convert, no archive": no_archive,
    "npz, content": arrays,
    "npz, objects": object_arrays,
    "npz, truncated": damaged_arrays,
    "jsonl": lines,
    "folder, remote code": folder({3}, remote_code),
    "folder, config": folder({2}, bad_config),
    "folder, JSON": folder({2}, bad_json),
    "folder, tokenizer": folder({2}, bad_tokenizer),
    "folder, weights": folder({2}, bad_state),
    "folder, pickle": folder({3}, pickle_for_weights),
    "folder, index": folder({3}, hostile_index),
    "folder, link": folder({3}, link_out),
    "adapter, config": adapter({2}, bad_recipe),
    "adapter, weights": adapter({2}, bad_adapter),
    "adapter, pickle": adapter({3}, pickled_adapter),
}


# --- the watch ---------------------------------------------------------------------------------------------


class Watch:
    """Notes every event that opening a file should never cause."""

    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def __init__(self, allowed: Path) -> None:
        self.allowed = str(allowed)
        self.active = False
        self.events: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.active and self.forbidden(event, args):
            self.events.append(f"{event} {str(args)[:100]}")

    def forbidden(self, event: str, args: tuple[Any, ...]) -> bool:
        if event == "exec":
            return True
        if event == "compile":
            return args[1] != "<unknown>"  # what numpy parses as a literal, and no more: an exec would follow
        if event == "import":
            return str(args[0]).startswith(CANARY_MODULE)
        if event == "open":
            return bool((args[2] or 0) & self.WRITING) and not str(args[0]).startswith(self.allowed)
        if event.startswith("socket."):
            return True
        return event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class")


def opened(name: str, make: Made, watch: Watch) -> dict[str, Any]:
    opener, codes = make
    start = time.process_time()
    watch.events.clear()
    watch.active = True
    code, line = 0, "nothing was raised"
    try:
        opener()
    except CandlingError as error:
        code, line = error.exit_code, str(error)
    except BaseException:
        code, line = 70, traceback.format_exc()
    finally:
        watch.active = False
    seconds = time.process_time() - start
    return {
        "name": name,
        "code": code,
        "codes": sorted(codes),
        "line": line,
        "seconds": seconds,
        "events": watch.events[:],
    }


def memory(kind: str) -> int:
    """In kilobytes: what is resident, or its highest since it was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(kind)))


def main(root: Path, seeds: int) -> dict[str, Any]:
    (root / f"{CANARY_MODULE}.py").write_text(f"def sing():\n    open({str(root / 'canary')!r}, 'w').close()\n")
    sys.path.insert(0, str(root))
    bases = Bases(root)
    cases = []
    for kind, make in GENERATORS.items():
        for seed in range(seeds):
            (root / f"{len(cases)}").mkdir()
            path = root / f"{len(cases)}" / "case"
            cases.append((f"{kind}, seed {seed}", make(random.Random(f"{kind} {seed}"), path, bases)))
    watch = Watch(root)
    sys.addaudithook(watch)
    for name in ("cp437", "unicode_escape", "raw_unicode_escape"):  # else the first use of each would be an import
        codecs.lookup(name)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    before = memory("VmRSS")
    results = [opened(name, case, watch) for name, case in cases]
    peak = memory("VmHWM") - before
    quiet = not bases.canary.exists()
    controls = []
    for content in (pickle.dumps(Acts(bases.canary)), b"c" + CANARY_MODULE.encode() + b"\nsing\n(tR."):
        bases.canary.unlink(missing_ok=True)
        seen = opened("control", (lambda content=content: pickle.loads(content), {0}), watch)
        controls.append({"events": seen["events"], "canary": bases.canary.exists()})
    return {"results": results, "peak_megabytes": peak / 1024, "quiet": quiet, "controls": controls}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
