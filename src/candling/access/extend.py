"""Many continuations of a few contexts: each context is read once, and only what is appended is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from candling.access.observe import observe
from candling.access.passes import undisturbed
from candling.access.pretrained import Decoder

VALUES = 1 << 25
"""Logits, and cached keys and values, that one pass may hold."""


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


@torch.no_grad()
def extend(
    decoder: Decoder, contexts: Tensor, tails: Tensor, *, sites: Sequence[str] = (), rows: int = 2048
) -> Iterator[Extended]:
    """Every tail after every context, block by block in the order of the tails.

    contexts int64 [C, P] and tails int64 [M, k], neither padded. rows: most rows in one pass. Costs C
    forward passes of P tokens and C·M of k. Agrees with whole passes up to rounding.
    """
    read = _read(decoder, contexts)
    count = len(contexts)
    vocabulary = len(decoder.get_parameter(f"{decoder.family.unembedding}.weight"))
    cached = sum(layer.keys.numel() + layer.values.numel() for layer in read.layers) // count
    block = max(1, min(rows, VALUES // (vocabulary + cached)) // count)
    continued = _Continued(decoder, read)
    for part in tails.split(block):
        seen = observe(continued, part.repeat(count, 1), [f"decoder.{site}" for site in sites])
        states = {site: seen.activations[f"decoder.{site}"][:, -1] for site in sites}
        yield Extended(
            seen.logits.unflatten(0, (count, len(part))),
            {site: state.unflatten(0, (count, len(part))) for site, state in states.items()},
        )


def follow(decoder: Decoder, contexts: Tensor, vectors: Tensor, *, sites: Sequence[str] = ()) -> Extended:
    """One vector in place of a token's embedding after every context, ready for a backward pass to `vectors`.

    contexts int64 [C, P]; vectors [n, d]. Costs C forward passes of P tokens and C·n of one.
    """
    with torch.no_grad():
        read = _read(decoder, contexts)
    count = len(contexts)
    repeated = vectors.repeat(count, 1)[:, None]
    seen = observe(_Continued(decoder, read), repeated, [f"decoder.{site}" for site in sites], grad=True)
    states = {site: seen.activations[f"decoder.{site}"][:, -1] for site in sites}
    return Extended(
        seen.logits.unflatten(0, (count, len(vectors))),
        {site: state.unflatten(0, (count, len(vectors))) for site, state in states.items()},
    )


def _read(decoder: Decoder, contexts: Tensor) -> Any:
    """The keys and values of the contexts."""
    with undisturbed(decoder):
        return decoder.get_submodule(decoder.family.base)(input_ids=contexts, use_cache=True).past_key_values


class _Continued(nn.Module):
    """A decoder that has read C contexts: tails [C·n, k], context by context, to logits [C·n, V].

    In place of tails, their vectors: [C·n, k, d].
    """

    def __init__(self, decoder: Decoder, read: object) -> None:
        super().__init__()
        self.decoder, self.read = decoder, read

    def forward(self, tails: Tensor) -> Tensor:
        cache: object = copy.deepcopy(self.read)  # a pass writes to it
        count = len(tails) // self._contexts
        cache.batch_repeat_interleave(count)  # type: ignore[attr-defined]
        family = self.decoder.family
        base, head = (self.decoder.get_submodule(name) for name in (family.base, family.unembedding))
        given = {"inputs_embeds" if tails.is_floating_point() else "input_ids": tails}
        state = base(**given, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = head(state[:, -1])
        return logits

    @property
    def _contexts(self) -> int:
        return int(self.read.layers[0].keys.shape[0])  # type: ignore[attr-defined]
