"""The same work by candling and by libraries that install beside it, in raw forward passes of the same prompt.

Extra `peers`. One process, one thread, processor time; a raw pass is the bare GPT-2 small with random weights on one
prompt of 16 tokens, all logits. Raw passes and arms alternate, so that a busy machine slows all alike; a figure is
the median over rounds of the ratio to the raw passes of the same round. Each peer has a copy of the network, since
some change it. Before anything is timed its figures must agree with candling's to 10⁻⁴ in the logit difference.

Sweeps of peers are one hooked pass a patch, so a share of the patches is run, and the time of all is stated. A peer's
own function is used where it has one (TransformerLens), else its documented way in a loop over the patches that
change anything; TransformerLens's function runs the others too. pyvene runs the source prompt again with each patch.
A peer that is not installed, or fails, is named and left out.

    python benchmarks/peers.py [rounds [jobs whose name has this]]
"""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from candling.access import Decoder, family_of, observe, parts
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.pairs import Pairs
from candling.access.sweep import sweep
from candling.access.trace import both
from candling.techniques.locate.attribution_patching import attribution_patching
from candling.techniques.locate.contract import LogitDifference

LENGTH, ANSWER, WRONG, FEW, AGREE = 16, 11, 42, 12, 1e-4
Cell = tuple[int, int]
Patch = Callable[[Tensor, Tensor, list[Cell]], list[float]]
"""Clean and corrupt prompt [1, L] → of each cell the logit difference when it alone is corrupt."""


@dataclass(frozen=True)
class Peer:
    """What a library can do here; None where it is not tried."""

    residual: Patch
    heads: Patch
    seen: Callable[[Tensor], list[Tensor]]
    """Three sites a layer: what it reads [1, L, d], what heads mix [1, L, d] or [1, L, H, e], what the MLP adds."""
    attribution: Callable[[Tensor, Tensor], Tensor] | None = None
    """Attribution patching of what each layer reads, all positions, and of every head and MLP beside it: [D, L]"""
    all_positions: bool = False
    """Does its sweep run patches that change nothing?"""


def gap(logits: Tensor) -> Tensor:
    """[1, L, V] → the answer's logit less the wrong one's, at the end"""
    return logits[0, -1, ANSWER] - logits[0, -1, WRONG]


# ---- the peers ----


def transformer_lens(model: nn.Module) -> Peer:
    import pandas
    from transformer_lens import patching
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge: Any = build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)
    depth = model.config.n_layer

    def patch(
        name: str, setter: Any, axes: list[str], clean: Tensor, corrupt: Tensor, cells: list[Cell]
    ) -> list[float]:
        _, cache = bridge.run_with_cache(corrupt)
        table = pandas.DataFrame(cells, columns=axes)
        found = patching.generic_activation_patch(bridge, clean, cache, gap, setter, name, index_df=table)
        return [float(value) for value in found]

    def seen(tokens: Tensor) -> list[Tensor]:
        names = [
            f"blocks.{i}.{site}" for i in range(depth) for site in ("hook_resid_pre", "attn.hook_z", "hook_mlp_out")
        ]
        _, cache = bridge.run_with_cache(tokens, names_filter=lambda name: name in set(names))
        return [cache[name] for name in names]

    def attribution(clean: Tensor, corrupt: Tensor) -> Tensor:
        kinds = ("hook_resid_pre", "attn.hook_z", "hook_mlp_out")
        names = {f"blocks.{i}.{kind}" for i in range(depth) for kind in kinds}
        _, other = bridge.run_with_cache(corrupt, names_filter=lambda name: name in names)
        own: dict[str, Tensor] = {}
        slopes: dict[str, Tensor] = {}

        def keep(value: Tensor, hook: Any, name: str) -> None:
            own[name] = value.detach()

        def back(slope: Tensor, hook: Any, name: str) -> None:
            slopes[name] = slope.detach()

        ahead, behind = ([(name, partial(each, name=name)) for name in names] for each in (keep, back))
        with bridge.hooks(fwd_hooks=ahead, bwd_hooks=behind):
            gap(bridge(clean)).backward()
        bridge.zero_grad(set_to_none=True)
        scores = {name: ((other[name] - own[name]) * slopes[name]).flatten(2).sum(-1) for name in own}
        return torch.cat([scores[f"blocks.{i}.hook_resid_pre"] for i in range(depth)])

    return Peer(
        partial(patch, "resid_pre", patching.layer_pos_patch_setter, ["layer", "pos"]),
        partial(patch, "z", patching.layer_head_vector_patch_setter, ["layer", "head"]),
        seen,
        attribution,
        all_positions=True,
    )


def nnsight(model: nn.Module) -> Peer:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "config.yaml"
        settings.write_text("APP:\n  PYMOUNT: false\n")
        os.environ["NNSIGHT_CONFIG"] = str(settings)
        import beartype  # noqa: F401 -- nnsight must not be the first to load it
        import nnsight as library
    traced: Any = library.NNsight(model)
    depth, size = model.config.n_layer, model.config.n_embd // model.config.n_head

    def inputs(tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        with traced.trace(tokens, use_cache=False):
            read, mixed = library.save([]), library.save([])
            for i in range(depth):
                read.append(traced.transformer.h[i].input)
                mixed.append(traced.transformer.h[i].attn.c_proj.input)
        return [each.clone() for each in read], [each.clone() for each in mixed]

    def residual(clean: Tensor, corrupt: Tensor, cells: list[Cell]) -> list[float]:
        read, _ = inputs(corrupt)
        found = []
        for layer, place in cells:
            with traced.trace(clean, use_cache=False):
                traced.transformer.h[layer].input[:, place] = read[layer][:, place]
                value = library.save(gap(traced.lm_head.output))
            found.append(float(value))
        return found

    def heads(clean: Tensor, corrupt: Tensor, cells: list[Cell]) -> list[float]:
        _, mixed = inputs(corrupt)
        found = []
        for layer, head in cells:
            own = slice(head * size, (head + 1) * size)
            with traced.trace(clean, use_cache=False):
                traced.transformer.h[layer].attn.c_proj.input[:, :, own] = mixed[layer][:, :, own]
                value = library.save(gap(traced.lm_head.output))
            found.append(float(value))
        return found

    def seen(tokens: Tensor) -> list[Tensor]:
        with traced.trace(tokens, use_cache=False):
            kept = library.save([])
            for i in range(depth):
                kept.append(traced.transformer.h[i].input)
                kept.append(traced.transformer.h[i].attn.c_proj.input)
                kept.append(traced.transformer.h[i].mlp.output)
        return list(kept)

    return Peer(residual, heads, seen)


def pyvene(model: nn.Module) -> Peer:
    import pyvene as library

    depth = model.config.n_layer

    def swapped(
        site: str, unit: str, where: Callable[[Cell], Any], clean: Tensor, corrupt: Tensor, cells: list[Cell]
    ) -> list[float]:
        found = []
        for layer, index in cells:
            place = library.RepresentationConfig(layer, site, unit, 1)
            config = library.IntervenableConfig([place], library.VanillaIntervention)
            own = library.IntervenableModel(config, model=model)
            at = where((layer, index))
            _, out = own({"input_ids": clean}, [{"input_ids": corrupt}], {"sources->base": ([at], [at])})
            found.append(float(gap(out.logits)))
        return found

    def seen(tokens: Tensor) -> list[Tensor]:
        sites = ("block_input", "attention_value_output", "mlp_output")
        places = [library.RepresentationConfig(i, site, "pos", LENGTH) for i in range(depth) for site in sites]
        config = library.IntervenableConfig(places, library.CollectIntervention)
        own = library.IntervenableModel(config, model=model)
        everywhere = [[list(range(LENGTH))]] * len(places)
        (_, kept), _ = own({"input_ids": tokens}, unit_locations={"base": everywhere})
        return list(kept)

    return Peer(
        partial(swapped, "block_input", "pos", lambda cell: [[cell[1]]]),
        partial(swapped, "head_attention_value_output", "h", lambda cell: [[cell[1]]]),
        seen,
    )


PEERS: dict[str, Callable[[nn.Module], Peer]] = {
    "transformer_lens": transformer_lens,
    "nnsight": nnsight,
    "pyvene": pyvene,
}


# ---- candling ----


@dataclass(frozen=True)
class Own:
    decoder: Decoder
    anatomy: Anatomy

    def residual(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        """[D, L]"""
        return self._swept(clean, corrupt, parts.resid_pre, by_position=True)[:, 0]

    def heads(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        """[D, H]"""
        return self._swept(clean, corrupt, parts.heads, by_position=False)[:, :, 0]

    def _swept(self, clean: Tensor, corrupt: Tensor, part: parts.Part, *, by_position: bool) -> Tensor:
        own, other = both(self.anatomy, clean[0], corrupt[0])
        answers = torch.tensor([ANSWER, WRONG])
        logits = sweep(self.anatomy, own, given=other, part=part, by_position=by_position, tokens=answers).logits
        return logits[..., 0] - logits[..., 1]

    def attribution(self, clean: Tensor, corrupt: Tensor) -> Tensor:
        """[D, L]; heads and MLPs come with it."""
        answer, wrong = torch.tensor([ANSWER]), torch.tensor([WRONG])
        pairs = Pairs(clean, corrupt, answer, wrong, torch.tensor([LENGTH - 1]))
        nodes = ("resid_pre", "attn.head_out", "mlp.out")
        found = attribution_patching(self.anatomy, pairs, metric=LogitDifference(answer, wrong), nodes=nodes)
        return found["resid_pre"].values[: self.anatomy.depth]

    def seen(self, tokens: Tensor) -> list[Tensor]:
        kinds = ("resid_pre", "attn.mixed", "mlp.out")
        names = [f"blocks.{i}.{kind}" for i in range(self.anatomy.depth) for kind in kinds]
        return list(observe(self.decoder, tokens, names).activations.values())


# ---- the comparison ----


@dataclass(frozen=True)
class Arm:
    name: str
    run: Callable[[], object]
    share: float = 1.0
    """Of the patches that are run."""


def some(cells: list[Cell]) -> list[Cell]:
    return cells[:: max(1, len(cells) // FEW)][:FEW]


def compared(truth: Tensor, given: list[float], cells: list[Cell], who: str) -> None:
    """Raises ValueError where a peer's figures are others."""
    worst = max(abs(float(truth[cell]) - value) for cell, value in zip(cells, given, strict=True))
    if not worst <= AGREE:
        raise ValueError(f"{who} differs from candling by {worst:.1e}")


def residual(own: Own, peers: dict[str, Peer], first: int) -> list[Arm]:
    clean, corrupt = prompts(first)
    truth, arms = own.residual(clean, corrupt), [Arm("candling", partial(own.residual, clean, corrupt))]
    changed = [(layer, place) for layer in range(own.anatomy.depth) for place in range(first, LENGTH)]
    for name, peer in peers.items():
        total = own.anatomy.depth * LENGTH if peer.all_positions else len(changed)
        arms += _arm(name, peer.residual, clean, corrupt, some(changed), total, truth)
    return arms


def heads(own: Own, peers: dict[str, Peer]) -> list[Arm]:
    clean, corrupt = prompts(1)
    truth, arms = own.heads(clean, corrupt), [Arm("candling", partial(own.heads, clean, corrupt))]
    every = [(layer, head) for layer, row in enumerate(truth) for head in range(len(row))]
    for name, peer in peers.items():
        arms += _arm(name, peer.heads, clean, corrupt, some(every), len(every), truth)
    return arms


def attribution(own: Own, peers: dict[str, Peer]) -> list[Arm]:
    clean, corrupt = prompts(1)
    truth, arms = own.attribution(clean, corrupt), [Arm("candling", partial(own.attribution, clean, corrupt))]
    flat = [(layer, place) for layer in range(own.anatomy.depth) for place in range(LENGTH)]
    for name, peer in peers.items():
        if peer.attribution is not None:
            run = partial(peer.attribution, clean, corrupt)
            with failing(name):
                compared(truth, [float(value) for value in run().flatten()], flat, name)
                arms.append(Arm(name, run))
    return arms


def observing(own: Own, peers: dict[str, Peer]) -> list[Arm]:
    clean, _ = prompts(1)
    seen, arms = own.seen(clean), [Arm("candling", partial(own.seen, clean))]
    for name, peer in peers.items():
        with failing(name):
            look = torch.no_grad()(peer.seen)
            for place, (ours, theirs) in enumerate(zip(seen, look(clean), strict=True)):
                own_order = (
                    ours.transpose(1, 2) if place % 3 == 1 else ours
                )  # heads behind positions, as peers have it
                if not torch.allclose(own_order, theirs.reshape(own_order.shape), atol=AGREE):
                    raise ValueError("other activations than candling's")
            arms.append(Arm(name, partial(look, clean)))
    return arms


JOBS: dict[str, Callable[[Own, dict[str, Peer]], list[Arm]]] = {
    "residual sweep, 12 × 16, f = 1": partial(residual, first=1),
    "residual sweep, 12 × 16, f = 10": partial(residual, first=10),
    "heads, 144, f = 1": heads,
    "attribution patching: residual, heads, MLPs": attribution,
    "observe 3 sites a layer": observing,
}


def _arm(
    name: str, run: Patch, clean: Tensor, corrupt: Tensor, cells: list[Cell], total: int, truth: Tensor
) -> list[Arm]:
    with failing(name):
        quiet = torch.no_grad()(run)
        compared(truth, quiet(clean, corrupt, cells), cells, name)
        return [Arm(name, partial(quiet, clean, corrupt, cells), len(cells) / total)]
    return []


@contextmanager
def failing(name: str) -> Iterator[None]:
    """A peer that fails is named; the others go on."""
    try:
        yield
    except Exception as fault:
        said = (str(fault).splitlines() or [""])[0][:120]
        print(f"  {name} is left out here: {type(fault).__name__}: {said}", flush=True)


def prompts(first: int) -> tuple[Tensor, Tensor]:
    """[1, 16] each, alike up to `first`"""
    g = torch.Generator().manual_seed(first)
    clean, corrupt = torch.randint(50_000, (2, 1, LENGTH), generator=g)
    corrupt[:, :first] = clean[:, :first]
    return clean, corrupt


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measured(raw: Callable[[], object], arms: list[Arm], rounds: int) -> dict[str, float]:
    ratios: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            bare = median(seconds(raw) for _ in range(3))
            ratios[arm.name].append(seconds(arm.run) / arm.share / bare)
    return {name: median(found) for name, found in ratios.items()}


def main(rounds: int, only: str = "", **size: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    source = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).eval()
    copies = {name: copy.deepcopy(source) for name in PEERS}
    decoder = Decoder(source, family_of({"model_type": "gpt2"})).eval().requires_grad_(False)
    own, peers = Own(decoder, dissect(decoder).anatomy), {}
    for name, make in PEERS.items():
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: pip install -c constraints.txt -e '.[peers]'")
            continue
        with failing(name):
            peers[name] = make(copies[name])
    tokens, _ = prompts(1)
    for job, make_arms in JOBS.items():
        if only in job:
            found = measured(partial(_bare, decoder, tokens), make_arms(own, peers), rounds)
            print(f"{job:46}" + "".join(f"  {name} {ratio:.3g}" for name, ratio in found.items()), flush=True)


@torch.no_grad()
def _bare(decoder: Decoder, tokens: Tensor) -> Tensor:
    logits: Tensor = decoder(tokens)
    return logits


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, *sys.argv[2:3])
