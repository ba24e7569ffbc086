"""Many continuations of a few contexts: each context is read once, and only what is appended is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from candling.access.anatomy import Anatomy
from candling.access.continuations import Read
from candling.access.dissect import dissect
from candling.access.lowrank import is_view
from candling.access.modes import undisturbed
from candling.access.observe import observe
from candling.access.pretrained import Decoder

VALUES = 1 << 25
"""Logits, cached keys and values, or weights of attention, that one pass may hold."""


def rows_at_once(most: int, width: int, vocabulary: int) -> int:
    """How many rows of `width` tokens one pass may take, no more than `most`: all their logits are held."""
    return max(1, min(most, VALUES // (width * vocabulary)))


@dataclass(frozen=True, eq=False)
class Extended:
    """What follows contexts with tails appended, for one block of tails."""

    logits: Tensor
    """[contexts, tails, V], at the tail's last token"""
    states: dict[str, Tensor]
    """By site: [contexts, tails, d], at the tail's last token."""

    @property
    def mean(self) -> Tensor:
        """[tails, V] probability of the next token, averaged over contexts."""
        return self.logits.softmax(-1).mean(0)


def extend(
    decoder: Decoder, contexts: Tensor, tails: Tensor, *, sites: Sequence[str] = (), rows: int = 2048
) -> Iterator[Extended]:
    """Every tail after every context, block by block in the order of the tails.

    contexts int64 [C, P] and tails int64 [M, k], neither padded. rows: most rows in one pass. Costs C
    forward passes of P tokens and C·M of k. Agrees with whole passes up to rounding.
    """
    for (only,) in _extend_all([decoder], contexts, tails, sites, rows):
        yield only


def extend_both(
    pair: tuple[Decoder, Decoder], contexts: Tensor, tails: Tensor, *, sites: Sequence[str] = (), rows: int = 2048
) -> Iterator[tuple[Extended, Extended]]:
    """As `extend`, with two decoders of one vocabulary side by side, in the same blocks of tails."""
    for both in _extend_all(pair, contexts, tails, sites, rows):
        yield both[0], both[1]


@torch.no_grad()
def _extend_all(
    decoders: Sequence[Decoder], contexts: Tensor, tails: Tensor, sites: Sequence[str], rows: int
) -> Iterator[list[Extended]]:
    read = [_continued(decoder, contexts, sites=sites) for decoder in decoders]
    blocks = [_block(d, each.values, len(contexts), 1, rows) for d, each in zip(decoders, read, strict=True)]
    for part in tails.split(min(blocks)):
        found = [continued(part, 1, sites) for continued in read]
        yield [Extended(x[:, :, -1], {site: h[:, :, -1] for site, h in states.items()}) for x, states in found]


@torch.no_grad()
def chance(decoder: Decoder, contexts: Tensor, tails: Tensor, phrase: Sequence[int], *, rows: int = 2048) -> Tensor:
    """[C, M] the probability of a phrase, all of its tokens in order, after every tail after every context.

    As `extend`, with the phrase but its last token read behind each tail: costs C forward passes of P tokens and
    C·M of k + len(phrase) - 1.
    """
    count, wanted = len(contexts), torch.tensor(list(phrase), device=tails.device)
    continued = _continued(decoder, contexts)
    behind = torch.cat([tails, wanted[:-1].expand(len(tails), -1)], 1)
    found = []
    for part in behind.split(_block(decoder, continued.values, count, len(wanted), rows)):
        logits = continued(part, len(wanted), ())[0].log_softmax(-1)
        of_phrase = logits.gather(-1, wanted.expand(*logits.shape[:2], -1)[..., None])[..., 0].sum(-1)
        found.append(of_phrase.exp())
    return torch.cat(found, 1)


def _continued(decoder: Decoder, contexts: Tensor, *, sites: Sequence[str] = ()) -> _Apart | _Cached:
    """The fast way where all sites are ends of blocks; else its own code."""
    ends = {f"{decoder.family.blocks}.{i}" for i in range(len(_blocks(decoder)))}
    if is_view(decoder) or not ends.issuperset(sites):
        return _Cached(decoder, contexts)
    with undisturbed(decoder):
        anatomy = dissect(decoder).anatomy
    return _Apart(decoder, anatomy, contexts)


def _blocks(decoder: Decoder) -> list[nn.Module]:
    return list(decoder.get_submodule(decoder.family.blocks).children())


def _block(decoder: Decoder, values: int, contexts: int, places: int, rows: int) -> int:
    """How many tails go through at a time, with logits kept at so many places of each."""
    vocabulary = len(decoder.get_parameter(f"{decoder.family.unembedding}.weight"))
    return max(1, min(rows, VALUES // (places * vocabulary + values)) // contexts)


class _Apart:
    """Tails [n, k] behind C contexts, to logits [C, n, places, V] of the last places and states [C, n, k, d]."""

    def __init__(self, decoder: Decoder, anatomy: Anatomy, contexts: Tensor) -> None:
        self.family, self.read = decoder.family, Read(anatomy, contexts)
        self.values = max(block.attention.heads for block in anatomy.blocks) * contexts.shape[1]
        """Numbers that a row takes beside its logits: its attention to the context."""

    def __call__(self, tails: Tensor, places: int, sites: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        states = {}
        for i, state in enumerate(self.read.residuals(tails)):
            if (site := f"{self.family.blocks}.{i}") in sites:
                states[site] = state
        return self.read.anatomy.unembed(state[:, :, -places:]), states


class _Cached:
    """The same by the decoder's own code, whose cache is repeated for every tail."""

    def __init__(self, decoder: Decoder, contexts: Tensor) -> None:
        with undisturbed(decoder):
            base = decoder.get_submodule(decoder.family.base)
            read: Any = base(input_ids=contexts, use_cache=True).past_key_values
        self.decoder, self.read, self.contexts = decoder, read, len(contexts)
        self.values = int(sum(layer.keys.numel() + layer.values.numel() for layer in read.layers)) // len(contexts)
        """Numbers that a row takes beside its logits: the copy of its context."""

    def __call__(self, tails: Tensor, places: int, sites: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = tails.repeat(self.contexts, 1)
        behind = _Behind(self.decoder, self.read, places, self.contexts)
        seen = observe(behind, rows, [f"decoder.{site}" for site in sites])
        shape = (self.contexts, len(tails))
        states = {site: seen.activations[f"decoder.{site}"].unflatten(0, shape) for site in sites}
        return seen.logits.unflatten(0, shape), states


class _Behind(nn.Module):
    """A decoder that has read C contexts: tails [C·n, k], context by context, to logits [C·n, places, V]."""

    def __init__(self, decoder: Decoder, read: object, places: int, contexts: int) -> None:
        super().__init__()
        self.decoder, self.read, self.places, self.contexts = decoder, read, places, contexts

    def forward(self, tails: Tensor) -> Tensor:
        cache: Any = copy.deepcopy(self.read)  # a pass writes to it
        cache.batch_repeat_interleave(len(tails) // self.contexts)
        family = self.decoder.family
        base, head = (self.decoder.get_submodule(name) for name in (family.base, family.unembedding))
        state = base(input_ids=tails, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = head(state[:, -self.places :])
        return logits
