"""Logit lens: what would be said if the network stopped here?

Question: after which block can the answer be read off, and how far is each block's guess from the last one's?
Source: nostalgebraist (2020, interpreting GPT: the logit lens); distances as in Belrose et al. (2303.08112, section
    2): KL(final ‖ lens).
Inputs: a decoder taken apart; prompts int64 [n, L], their last positions and answers int64 [n]. KL in nats; ranks
    from 0, the most likely token.
Cost: n forward passes, and one unembedding for each block.
Known failures: blind where blocks keep their results in another basis than the last one (basis drift); an early
    guess may be what the embedding alone suggests; a token that can be read off need not be used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy
from candling.access.wording import bad_input
from candling.evidence.measurement import Cost


@dataclass(frozen=True, eq=False)
class Lens:
    """One row before the first block and one after each."""

    labels: tuple[str, ...]
    """embed, then blocks.0.resid_post and so on"""
    top: Tensor
    """int64 [depth + 1, n], the most likely token"""
    kl: Tensor
    """[depth + 1, n], KL(final ‖ lens) in nats; 0 in the last row"""
    rank: Tensor
    """int64 [depth + 1, n], how many tokens are more likely than the answer"""
    cost: Cost
    """In passes of one prompt, unembeddings apart."""

    @property
    def agreement(self) -> Tensor:
        """[depth + 1], the share of prompts whose most likely token is the final one"""
        return (self.top == self.top[-1]).double().mean(1)


@torch.no_grad()
def logit_lens(anatomy: Anatomy, tokens: Tensor, last: Tensor, answer: Tensor) -> Lens:
    """The residual stream at each prompt's last position, unembedded after every block through the final norm.

    Raises InputError where tokens, last and answer have unlike rows.
    """
    if tokens.ndim != 2 or not len(tokens) == len(last) == len(answer):
        shapes = ", ".join(str(list(each.shape)) for each in (tokens, last, answer))
        raise bad_input("prompts", f"tokens, last and answer are {shapes}; give [n, L], [n] and [n]")
    rows = torch.arange(len(tokens), device=tokens.device)
    x = anatomy.embed(tokens)
    states = [x[rows, last]]
    for block in anatomy.blocks:
        x = block(x)
        states.append(x[rows, last])
    final = anatomy.unembed(states[-1]).log_softmax(-1)
    top, kl, rank = [], [], []
    for state in states:
        said = anatomy.unembed(state).log_softmax(-1)
        top.append(said.argmax(-1))
        kl.append((final.exp() * (final - said)).sum(-1))
        rank.append((said > said[rows, answer][:, None]).sum(-1))
    return Lens(
        labels=("embed", *(f"blocks.{layer}.resid_post" for layer in range(anatomy.depth))),
        top=torch.stack(top),
        kl=torch.stack(kl),
        rank=torch.stack(rank),
        cost=Cost(forward=len(tokens), backward=0),
    )
