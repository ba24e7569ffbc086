"""One more token after each of many prefixes: every token of a list after every prefix, read once and shared.

`extend` appends a few tails to a few contexts; this appends all tokens to many prefixes, for decoders that are taken
apart. A prefix's keys and values are computed once; the tokens that follow it are queries side by side.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Block


@torch.no_grad()
def continuations(anatomy: Anatomy, prefixes: Tensor, tokens: Tensor, *, rows: int = 8192) -> Iterator[Tensor]:
    """Logits [n, M, V] after each prefix with each token behind it, for n prefixes at a time.

    prefixes int64 [N, P]; tokens int64 [M]. rows: most continuations at a time. Costs N passes of P tokens and
    N·M of one.
    """
    for part in prefixes.split(max(1, rows // len(tokens))):
        before = anatomy.embed(part)
        after = anatomy.embedding[tokens].expand(len(part), -1, -1)
        if anatomy.positions is not None:
            after = after + anatomy.positions[part.shape[1]]
        for block in anatomy.blocks:
            after = _step(block, before, after)
            before = block(before)
        yield anatomy.unembed(after)


def _step(block: Block, before: Tensor, after: Tensor) -> Tensor:
    """The block on the tokens [n, M, d], each of which sees all of its prefix [n, P, d] and itself."""
    mixed = _mixed(block.attention, block.attention_norm(before), block.attention_norm(after))
    middle = after + block.attention.join(mixed)
    if block.mlp is None:
        return middle
    return middle + block.mlp(block.mlp_norm(after if block.parallel else middle))


def _mixed(attention: Attention, before: Tensor, after: Tensor) -> Tensor:
    """Normed streams → what each head hands to its output map: [n, H, M, e]"""
    place = before.shape[1]
    keys, values = attention.spread(attention.keys(before)), attention.spread(attention.values(before))
    alone = after.unsqueeze(-2)
    queries = attention.queries(alone, place).squeeze(-2).transpose(1, 2)
    own_key = attention.spread(attention.keys(alone, place)).squeeze(-2).transpose(1, 2)
    own_value = attention.spread(attention.values(alone)).squeeze(-2).transpose(1, 2)
    first = 0 if attention.window is None else max(0, place + 1 - attention.window)
    to_prefix = queries @ keys[..., first:, :].transpose(-1, -2)
    to_self = (queries * own_key).sum(-1, keepdim=True)
    weights = (torch.cat([to_prefix, to_self], -1) * attention.scale).softmax(-1)
    return weights[..., :-1] @ values[..., first:, :] + weights[..., -1:] * own_value
