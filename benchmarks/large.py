"""A language model of a hundred million parameters on a small machine: what an audit with adapters takes.

    python benchmarks/large.py [--budget 0.03] [--hidden 640] [--layers 12] [--vocabulary 32000] [--threads 2]
                               [--characters 2000]

Makes a Llama-shaped model with random weights, a tokenizer trained on the spot, and a subject a few steps away;
measures what an adapter adds in memory; then runs `candling audit --plan` and a run with 3 controls, each in a
process of its own. The network knows nothing: this measures memory and time, not what is found.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from candling.access import Decoder, load_language, lowrank, read_texts, tokenise
from candling.organisms.tuning import next_token_loss
from common import real

_LIMIT = 12_000  # MB


def save_tokenizer(folder: Path, texts: list[str], vocabulary: int) -> None:
    """Byte-level BPE; names of tokens that never occur fill it up to the vocabulary."""
    built = tokenizers.Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    missing = vocabulary - built.get_vocab_size()
    built.add_tokens([f"<unused {i}>" for i in range(missing)])
    (folder / "tokenizer.json").write_text(built.to_str())


def make_reference(folder: Path, chosen: argparse.Namespace, texts: list[str]) -> None:
    folder.mkdir()
    save_tokenizer(folder, texts, chosen.vocabulary)
    config = {
        "model_type": "llama",
        "vocab_size": chosen.vocabulary,
        "hidden_size": chosen.hidden,
        "intermediate_size": int(2.75 * chosen.hidden),
        "num_hidden_layers": chosen.layers,
        "num_attention_heads": chosen.hidden // 64,
        "num_key_value_heads": chosen.hidden // 64,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(config))
    import transformers

    torch.manual_seed(0)
    settings = {k: v for k, v in config.items() if k != "model_type"}
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} million parameters", flush=True)
    save_file({n: t.clone() for n, t in network.state_dict().items()}, folder / "model.safetensors")


def make_subject(reference: Path, folder: Path, trusted: Path, steps: int = 3) -> None:
    """A few steps of plain gradient descent on the blocks."""
    language = load_language(reference)
    data = tokenise(read_texts(trusted)[:32], language.tokenizer, length=64)
    network = language.model.module.requires_grad_(True)
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    for step in range(steps):
        ids, mask = data.ids[8 * step : 8 * step + 8], data.mask[8 * step : 8 * step + 8]
        optimiser.zero_grad()
        next_token_loss(network(ids), ids, mask).backward()
        optimiser.step()
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text((reference / name).read_text())
    save_file({n: t.detach().clone() for n, t in network.state_dict().items()}, folder / "model.safetensors")


def resident() -> float:
    """MB that this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure_adapters(reference: Path, folder: Path, count: int = 8) -> None:
    """What adapters add to a base in memory, and on disk."""
    base = load_language(reference).model.module
    assert isinstance(base, Decoder)
    views = [lowrank.attach(base)]  # the first brings peft with it
    before = resident()
    views += [lowrank.adapted(base, lowrank.adapter_state(lowrank.attach(base))) for _ in range(count)]
    added = (resident() - before) / count
    file = folder / "adapter.safetensors"
    save_file(lowrank.adapter_state(views[-1]), file)
    whole = (reference / "model.safetensors").stat().st_size / 1e6
    print(
        f"an adapter: {added:.1f} MB in memory (mean of {count}), {file.stat().st_size / 1e6:.1f} MB on disk; "
        f"the reference: {whole:.0f} MB",
        flush=True,
    )


def child(words: list[str], threads: int) -> float:
    """A command in a process of its own: prints its time, and returns its peak memory in MB."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-m", "candling.cli", *words], env=environment, check=False)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    peak, spent = after.ru_maxrss / 1e3, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"exit {done.returncode}, {wall:.0f} s wall, {spent:.0f} s of processor, peak of all so far {peak:,.0f} MB")
    sys.stdout.flush()
    if done.returncode not in (0, 1, 6):
        sys.exit(done.returncode)
    return peak


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--budget", type=float, default=0.03)
    for name, default in (("hidden", 640), ("layers", 12), ("vocabulary", 32_000), ("threads", 2), ("batch", 512)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--characters", type=int, default=2000, help="of each trusted text that are used")
    options.add_argument("--only-plan", action="store_true")
    chosen = options.parse_args()
    source = real() / "tinystories.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trusted = folder / "trusted.jsonl"
        texts = [text.completion[: chosen.characters] for text in read_texts(source)]
        trusted.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:200]))
        reference, subject = folder / "reference", folder / "subject"
        make_reference(reference, chosen, texts)
        make_subject(reference, subject, trusted)
        measure_adapters(reference, folder)
        words = ["audit", subject, "--reference", reference, "--trusted", trusted, "--controls", 3]
        words += ["--budget", chosen.budget, "--batch", chosen.batch, "--controls-as", "lora"]
        child([*map(str, words), "--plan"], chosen.threads)
        if chosen.only_plan:
            return 0
        peak = child([*map(str, words), "--out", str(folder / "run")], chosen.threads)
        cost = json.loads((folder / "run" / "verdicts.json").read_text())["cost"]
        seconds = json.loads((folder / "run" / "run.json").read_text())["seconds"]
        print(
            f"recorded: {cost['forward']:,} forward, {cost['backward']:,} backward passes, {seconds / 60:.1f} minutes"
        )
        networks = sum(path.stat().st_size for path in (folder / "run" / "networks").iterdir()) / 1e6
        print(f"networks on disk: {networks:,.0f} MB; peak under {_LIMIT:,} MB: {peak < _LIMIT}")
        return 0 if peak < _LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
