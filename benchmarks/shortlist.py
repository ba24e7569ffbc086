"""What a search loses where it does not try every token: shortlists by a first look against random ones.

    python benchmarks/shortlist.py [--planted 8] [--clean 4] [--seed 900]

Subjects are fine-tunes of stories260K (512 tokens), made as in `stories.py`. For shortlists of 64 and 128 tokens:
the share of a trigger's tokens that they hold, and the best score that a search finds with each, beside the
exhaustive search's. All 512 tokens are looked at behind one context. A search's shortlist for growing is as it is in
each case, and pairs are grown from the best single tokens, never all tried: that is for small vocabularies alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from candling.access import Decoder, Tokens
from candling.organisms.plants import SequenceBackdoor
from candling.runs.seeds import derive
from candling.techniques.search import sequence_pair
from candling.techniques.search.contract import SequencePart
from candling.techniques.search.sequence_pair import Settings, draw_contexts
from candling.techniques.search.sequences import search_sequences
from candling.techniques.search.shortlist import shortlist_tokens
from candling.workflows.case import make_case
from stories import _as_model, planted, stories, subject

SIZES = (64, 128)
PARTS = [SequencePart(k) for k in (1, 2, 3)]


def best(network: Decoder, soup: Decoder, data: Tokens, seed: int, size: int, chosen: torch.Tensor | None) -> float:
    """The best score of a search that tries `size` single tokens: those given, or those that it chooses."""
    usual = sequence_pair.shortlist_tokens
    if chosen is not None:
        sequence_pair.shortlist_tokens = lambda *_, **__: chosen  # type: ignore[assignment]
    try:
        settings = replace(Settings(), exhaustive=size, pairs=0)
        return float(search_sequences(network, soup, data, PARTS, seed=seed, settings=settings).score.max())
    finally:
        sequence_pair.shortlist_tokens = usual


def main() -> None:
    options = argparse.ArgumentParser()
    for name, default in (("planted", 8), ("clean", 4), ("seed", 900)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    seed = chosen.seed
    reference, trusted, own = stories(seed)
    first, _ = subject(reference, own, seed=derive(seed, "first"))
    case = make_case(_as_model(reference, first), trusted, reference)
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = case.kind.prepare(case.bench(Path(scratch), seed))
        assert bench.language is not None
        assert bench.language.soup is not None
        soup = bench.candidate(bench.language.soup).load()
        assert isinstance(soup, Decoder)
        for i in range(chosen.planted + chosen.clean):
            plant: SequenceBackdoor | None = None
            if i < chosen.planted:
                network, plant, _ = planted(reference, own, bench.thirds.confirm, seed, i)
            else:
                network, _ = subject(reference, own, seed=derive(seed, "clean", i))
            assert isinstance(network, Decoder)
            rows.append(measure(network, soup, bench.thirds.search, seed, plant, i))
            print("planted" if plant else "clean", {k: round(v, 2) for k, v in rows[-1].items()}, flush=True)
    for kind, group in (("planted", rows[: chosen.planted]), ("clean", rows[chosen.planted :])):
        for name in group[0] if group else ():
            print(f"{kind:8s} {name:24s} mean {mean(row[name] for row in group):.3f}")


def measure(
    network: Decoder, soup: Decoder, data: Tokens, seed: int, plant: SequenceBackdoor | None, number: int
) -> dict[str, float]:
    """Recalls (of planted ones) and best scores."""
    settings = Settings()
    contexts = draw_contexts(data, settings.contexts, settings.length, seed)
    g = torch.Generator().manual_seed(derive(seed, "random", number))
    random = torch.randperm(data.vocabulary, generator=g)
    row = {"score, exhaustive": best(network, soup, data, seed, data.vocabulary, None)}
    for size in SIZES:
        if plant is not None:
            trigger = torch.tensor(sorted(set(plant.trigger)))
            chosen = shortlist_tokens(network, soup, contexts, size, seed=seed)
            row[f"recall {size}, first look"] = float(torch.isin(trigger, chosen).float().mean())
            row[f"recall {size}, random"] = float(torch.isin(trigger, random[:size]).float().mean())
        row[f"score {size}, first look"] = best(network, soup, data, seed, size, None)
        row[f"score {size}, random"] = best(network, soup, data, seed, size, random[:size].sort().values)
    return row


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
