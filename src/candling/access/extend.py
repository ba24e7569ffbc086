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
    continued = _Continued(decoder, read)
    for part in tails.split(_block(decoder, read, count, 1, rows)):
        seen = observe(continued, part.repeat(count, 1), [f"decoder.{site}" for site in sites])
        states = {site: seen.activations[f"decoder.{site}"][:, -1] for site in sites}
        yield Extended(
            seen.logits.unflatten(0, (count, len(part))),
            {site: state.unflatten(0, (count, len(part))) for site, state in states.items()},
        )


@torch.no_grad()
def chance(decoder: Decoder, contexts: Tensor, tails: Tensor, phrase: Sequence[int], *, rows: int = 2048) -> Tensor:
    """[C, M] the probability of a phrase, all of its tokens in order, after every tail after every context.

    As `extend`, with the phrase but its last token read behind each tail: costs C forward passes of P tokens and
    C·M of k + len(phrase) - 1.
    """
    read, count, wanted = _read(decoder, contexts), len(contexts), torch.tensor(list(phrase), device=tails.device)
    continued = _Continued(decoder, read, len(wanted))
    behind = torch.cat([tails, wanted[:-1].expand(len(tails), -1)], 1)
    found = []
    for part in behind.split(_block(decoder, read, count, len(wanted), rows)):
        logits = observe(continued, part.repeat(count, 1), []).logits.log_softmax(-1)
        of_phrase = logits.gather(-1, wanted.expand(len(logits), -1)[..., None])[..., 0].sum(-1)
        found.append(of_phrase.exp().unflatten(0, (count, len(part))))
    return torch.cat(found, 1)


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


def _block(decoder: Decoder, read: Any, contexts: int, places: int, rows: int) -> int:
    """How many tails go through at a time, with logits kept at so many places of each."""
    vocabulary = len(decoder.get_parameter(f"{decoder.family.unembedding}.weight"))
    cached = int(sum(layer.keys.numel() + layer.values.numel() for layer in read.layers)) // contexts
    return max(1, min(rows, VALUES // (places * vocabulary + cached)) // contexts)


class _Continued(nn.Module):
    """A decoder that has read C contexts: tails [C·n, k], context by context, to logits [C·n, V] of the last place.

    In place of tails, their vectors: [C·n, k, d]. places: of as many last places the logits [C·n, places, V].
    """

    def __init__(self, decoder: Decoder, read: object, places: int | None = None) -> None:
        super().__init__()
        self.decoder, self.read, self.places = decoder, read, places

    def forward(self, tails: Tensor) -> Tensor:
        cache: object = copy.deepcopy(self.read)  # a pass writes to it
        count = len(tails) // self._contexts
        cache.batch_repeat_interleave(count)  # type: ignore[attr-defined]
        family = self.decoder.family
        base, head = (self.decoder.get_submodule(name) for name in (family.base, family.unembedding))
        given = {"inputs_embeds" if tails.is_floating_point() else "input_ids": tails}
        state = base(**given, past_key_values=cache, use_cache=True).last_hidden_state
        logits: Tensor = head(state[:, -1] if self.places is None else state[:, -self.places :])
        return logits

    @property
    def _contexts(self) -> int:
        return int(self.read.layers[0].keys.shape[0])  # type: ignore[attr-defined]
