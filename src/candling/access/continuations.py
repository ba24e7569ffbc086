"""What may follow contexts that a taken-apart decoder has read once: only what is appended is computed.

The keys and values of the contexts are shared by all that is put behind them, never repeated; the tokens that follow
are queries side by side.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Block


class Read:
    """C contexts of P tokens that a decoder has read: their keys and values by block [C, K, P, e]."""

    def __init__(self, anatomy: Anatomy, contexts: Tensor) -> None:
        """contexts int64 [C, P]. Costs C passes of P tokens."""
        self.anatomy, self.length = anatomy, contexts.shape[1]
        self._kept: list[tuple[Tensor, Tensor]] = []
        state = anatomy.embed(contexts)
        for block in anatomy.blocks:
            normed = block.attention_norm(state)
            self._kept.append((block.attention.keys(normed), block.attention.values(normed)))
            if len(self._kept) < anatomy.depth:
                state = block(state)
        self.contexts = len(contexts)

    def residuals(self, tails: Tensor) -> Iterator[Tensor]:
        """The residual stream after each block on the tails int64 [n, k] behind every context: [C, n, k, d].

        Costs C·n passes of k tokens.
        """
        state = self.anatomy.embedding[tails]
        if self.anatomy.positions is not None:
            state = state + self.anatomy.positions[self.length : self.length + tails.shape[1]]
        state = state.expand(self.contexts, *state.shape)
        for block, (keys, values) in zip(self.anatomy.blocks, self._kept, strict=True):
            state = _step(block, state, keys, values)
            yield state

    def states(self, tails: Tensor) -> Tensor:
        """The residual stream after the last block: [C, n, k, d]"""
        *_, last = self.residuals(tails)
        return last


@torch.no_grad()
def continuations(anatomy: Anatomy, prefixes: Tensor, tokens: Tensor, *, rows: int = 8192) -> Iterator[Tensor]:
    """Logits [n, M, V] after each prefix with each token behind it, for n prefixes at a time.

    prefixes int64 [N, P]; tokens int64 [M]. rows: most continuations at a time. Costs N passes of P tokens and
    N·M of one.
    """
    for part in prefixes.split(max(1, rows // len(tokens))):
        yield anatomy.unembed(Read(anatomy, part).states(tokens[:, None])[:, :, 0])


def _step(block: Block, state: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The block on tails [C, n, k, d], each token of which sees its context and its tail up to itself."""
    attention = block.attention
    middle = state + attention.join(_mixed(attention, block.attention_norm(state), keys, values))
    if block.mlp is None:
        return middle
    return middle + block.mlp(block.mlp_norm(state if block.parallel else middle))


def _mixed(attention: Attention, normed: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Normed tails [C, n, k, d], keys and values of contexts [C, K, P, e] → [C, n, H, k, e], as `Attention.mixed`.

    Query heads stay beside the others that read the same keys, so that none is repeated: [C, K, H/K, n, k, ·].
    """
    place, k = keys.shape[-2], normed.shape[-2]
    queries = attention.queries(normed, place).unflatten(2, (attention.groups, -1)).permute(0, 2, 3, 1, 4, 5)
    own_keys, own_values = (
        each.transpose(1, 2).unsqueeze(2) for each in (attention.keys(normed, place), attention.values(normed))
    )
    shape = queries.shape[2:5]
    behind = (queries.flatten(2, 4) @ keys.transpose(-1, -2)).unflatten(2, shape)
    within = (queries * own_keys).sum(-1, keepdim=True) if k == 1 else queries @ own_keys.transpose(-1, -2)
    scores = torch.cat([behind, within], -1) * attention.scale
    hidden = attention.hidden(k, place + k, place, scores.device)
    if hidden.any():
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    before = (weights[..., :place].flatten(2, 4) @ values).unflatten(2, shape)
    after = weights[..., place:]
    mixed: Tensor = before + (after * own_values if k == 1 else after @ own_values)
    return mixed.permute(0, 3, 1, 2, 4, 5).flatten(2, 3)
