"""Edges cut one by one, and only what a cut reaches computed again.

Of a pass under trial nothing upstream of the cut is computed, no receiver that no changed sender reaches, no position
left of the first at which the prompts differ, and of senders whose values reach the logits by the prompts' ends alone
nothing but the ends. The results are those of `EdgeRun` up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention
from candling.access.edges import EdgeRun, computed_from, lone, written
from candling.access.graph import Node
from candling.access.pairs import Pairs


@dataclass(frozen=True, eq=False)
class Outcome:
    """b trials side by side: what differs from the run as it stands. Positions are those that are followed."""

    ends: Tensor
    """[b, n, d], what is unembedded at each prompt's last position"""
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """By receiver: [b, n, L, d]"""
    parts: dict[int, Tensor] = field(default_factory=dict)
    """By receiver of a head: its queries, keys or values [b, n, L, e]"""
    values: dict[int, Tensor] = field(default_factory=dict)
    """By sender: [b, n, L, d]"""


class EdgeTrials:
    """A run of the decoder, edges of which can be cut on trial and for good.

    `flow` says along which edges a change travels on: the edges that are kept. Where it is changed, `settle`.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        pairs: Pairs,
        *,
        denoising: bool = False,
        source: Tensor | None = None,
        direct: bool = False,
    ) -> None:
        """Costs two forward passes of the prompts. denoising and source are those of `EdgeRun`.

        direct: what a cut changes in one sender goes to the logits and nowhere else, and nothing is committed.
        """
        run = EdgeRun(anatomy, pairs, denoising=denoising, source=source)
        self.anatomy, self.graph, self.count = anatomy, run.graph, len(pairs)
        self.direct, self.flow = direct, run.graph.edges.clone()
        if direct:
            self.flow[:, :-1] = False
        self._last, self._stop = pairs.last, run.source.shape[2]
        self._start = min(pairs.first, int(pairs.last.min())) if source is None else 0
        self._rows = torch.arange(self.count, device=pairs.last.device)
        common = bool((pairs.last == self._stop - 1).all())
        self._common = self._stop - 1 - self._start if common else None
        base = pairs.corrupt if denoising else pairs.clean
        with torch.no_grad():
            now = written(anatomy, base[:, : self._stop])
        self.source = run.source[:, :, self._start :].unbind()
        """[n, L, d] of every sender: what a cut edge carries"""
        self.now = list(now[:, :, self._start :].unbind())
        """What every sender writes, at its prompts' ends alone where nothing else is followed."""
        self._senders = {node: place for place, node in enumerate(self.graph.senders)}
        self._receivers = {node: place for place, node in enumerate(self.graph.receivers)}
        self._reads = computed_from(run.graph)
        self._lone = [[lone(b.attention, h) for h in range(b.attention.heads)] for b in anatomy.blocks]
        self._inputs: list[Tensor] = []
        self._left: list[Tensor] = []
        self._read(now)
        self._parts: dict[int, Tensor] = {}
        self._prefixes: dict[int, Tensor] = {}
        self._masks: dict[tuple[int, bool], Tensor] = {}
        self._readers: list[set[int]] = [set() for _ in self.graph.senders]
        """Of each sender: who reads it and can reach the logits."""
        self._whole, self._stored = [True] * len(self.graph.senders), [True] * len(self.graph.senders)
        self._narrow = [False] * len(self.graph.receivers)
        self.alive = torch.ones(len(self.graph.receivers), dtype=torch.bool)
        """bool [receivers]: can a change of what it reads reach the logits?"""
        self.settle()

    def settle(self) -> None:
        """Takes note of changes of `flow`: what no longer reaches the logits, or by the ends alone."""
        count = len(self.graph.senders)
        alive = [False] * len(self.graph.receivers)
        narrow = [True] * len(self.graph.receivers)
        alive[-1] = True
        flow = (self.flow & self.graph.edges).tolist()
        for place in reversed(range(count)):
            readers = [r for r, there in enumerate(flow[place]) if there and alive[r]]
            self._readers[place] = set(readers)
            self._whole[place] = whole = any(not narrow[r] for r in readers)
            if self._stored[place] and not whole and not self.direct:
                self._stored[place], self.now[place] = False, self._at_ends(self.now[place])
            for receiver in self._reads[place]:
                alive[receiver] = alive[receiver] or bool(readers)
                everywhere = bool(readers) and (whole or self.graph.receivers[receiver].slot in ("k", "v"))
                narrow[receiver] = narrow[receiver] and not everywhere
        for receiver, now in enumerate(narrow):
            if now and not self._narrow[receiver]:
                self._inputs[receiver] = self._at_ends(self._inputs[receiver])
                self._parts.pop(receiver, None)
        self._narrow, self.alive = narrow, torch.tensor(alive)

    @property
    def ends(self) -> Tensor:
        """[n, d], what is unembedded as the run stands"""
        return self._inputs[-1][:, 0]

    @property
    def all_cut(self) -> Tensor:
        """[n, d], what is unembedded where every edge into the logits is cut"""
        biases = [block.attention.output_bias for block in self.anatomy.blocks]
        total = torch.stack([self._at_ends(each) for each in self.source]).sum(0)[:, 0]
        return total + sum((bias for bias in biases if bias is not None), torch.zeros_like(total))

    def idle(self, sender: int) -> bool:
        """Does a cut of its edges change nothing, to the last bit?"""
        source, now = self.source[sender], self.now[sender]
        return torch.equal(source if self._stored[sender] else self._at_ends(source), now)

    @torch.no_grad()
    def cut(self, receiver: int, trials: Sequence[Iterable[int]]) -> Outcome:
        """One receiver reads the source's value from the senders that each of b trials names.

        Costs at most b forward passes.
        """
        narrow = self._narrow[receiver]
        cuts = [set(trial) for trial in trials]
        own = sorted(set().union(*cuts))
        there = torch.tensor([[float(sender in cut) for sender in own] for cut in cuts])
        x = self._inputs[receiver]
        if not own:
            return self._follow(receiver, x.expand(len(cuts), *x.shape))
        moves = torch.stack([self._move(sender, narrow) for sender in own])
        return self._follow(receiver, x + (there.to(moves) @ moves.flatten(1)).unflatten(-1, moves.shape[1:]))

    def commit(self, outcome: Outcome, trial: int) -> None:
        """One of an outcome's trials becomes the run as it stands."""
        for kept, new in (
            (self._inputs, outcome.inputs),
            (self._parts, outcome.parts),
            (self.now, outcome.values),
        ):
            for place, value in new.items():
                kept[place] = value[trial].clone()

    def _move(self, sender: int, narrow: bool) -> Tensor:
        """What a cut adds to the input of a receiver."""
        source, now = self.source[sender], self.now[sender]
        if not self._stored[sender]:
            return self._at_ends(source) - now
        return self._at_ends(source - now) if narrow else source - now

    def _follow(self, receiver: int, x: Tensor) -> Outcome:
        """The receiver reads x [b, n, L, d]: on through the layers."""
        node, found = self.graph.receivers[receiver], Outcome(x[..., 0, :], {receiver: x})
        if node.kind == "logits":
            return found
        moved: dict[int, Tensor] = {}
        for layer in range(node.layer, self.anatomy.depth):
            slots = range(self._receivers[Node("head", layer, 0, "q")], self._after_heads(layer))
            self._update(found, moved, slots)
            for head in range(self.graph.heads[layer]):
                self._head(found, moved, layer, head)
            if self.graph.mlps[layer]:
                self._update(found, moved, range(slots.stop, slots.stop + 1))
                self._mlp(found, moved, layer)
        last = len(self._inputs) - 1
        self._update(found, moved, range(last, last + 1))
        ends = found.inputs[last][..., 0, :] if last in found.inputs else self.ends.expand(len(x), -1, -1)
        return replace(found, ends=ends)

    def _after_heads(self, layer: int) -> int:
        return self._receivers[Node("head", layer, self.graph.groups[layer] - 1, "v")] + 1

    def _update(self, found: Outcome, moved: dict[int, Tensor], receivers: range) -> None:
        """The inputs of a stage's receivers, from the senders that have moved."""
        for narrow in (False, True):
            here = [r for r in receivers if self._narrow[r] == narrow and any(r in self._readers[m] for m in moved)]
            if not here:
                continue
            own = [sender for sender in moved if narrow or self._whole[sender]]
            moves = torch.stack(
                [self._at_ends(moved[m]) if narrow and self._whole[m] else moved[m] for m in own],
            )
            weights = torch.tensor([[float(r in self._readers[sender]) for sender in own] for r in here])
            sums = (weights.to(moves) @ moves.flatten(1)).unflatten(-1, moves.shape[1:])
            for receiver, each in zip(here, sums, strict=True):
                found.inputs[receiver] = each + self._inputs[receiver]

    def _head(self, found: Outcome, moved: dict[int, Tensor], layer: int, head: int) -> None:
        sender = self._senders[Node("head", layer, head)]
        reads = self._reads[sender]
        if not any(receiver in found.inputs for receiver in reads) or not self._readers[sender]:
            return
        own = self._lone[layer][head]
        queries, keys, values = (self._part(found, own, receiver) for receiver in reads)
        hidden = self._hidden(own, layer, self._narrow[reads[0]])
        pattern = (queries @ keys.transpose(-1, -2) * own.scale).masked_fill(hidden, -torch.inf).softmax(-1)
        self._move_on(found, moved, sender, pattern @ values @ own.output[0])

    def _mlp(self, found: Outcome, moved: dict[int, Tensor], layer: int) -> None:
        sender, block = self._senders[Node("mlp", layer)], self.anatomy.blocks[layer]
        (receiver,) = self._reads[sender]
        if receiver in found.inputs and self._readers[sender]:
            assert block.mlp is not None
            self._move_on(found, moved, sender, block.mlp(block.mlp_norm(found.inputs[receiver])))

    def _move_on(self, found: Outcome, moved: dict[int, Tensor], sender: int, value: Tensor) -> None:
        found.values[sender] = value
        now = self.now[sender]
        moved[sender] = value - (self._at_ends(now) if self._stored[sender] and not self._whole[sender] else now)

    def _part(self, found: Outcome, own: Attention, receiver: int) -> Tensor:
        """Queries [.., n, L, e], keys or values [.., n, all positions, e]: of a trial if they changed there."""
        if receiver in found.inputs:
            if receiver not in found.parts:
                found.parts[receiver] = self._project(own, receiver, found.inputs[receiver])
            return found.parts[receiver]
        if receiver not in self._parts:
            self._parts[receiver] = self._project(own, receiver, self._inputs[receiver])
        return self._parts[receiver]

    def _project(self, own: Attention, receiver: int, x: Tensor) -> Tensor:
        node = self.graph.receivers[receiver]
        read = self.anatomy.blocks[node.layer].attention_norm
        if node.slot == "q":
            return self._queries(own, read(x), self._narrow[receiver])
        asked = node.slot == "k"
        new = (own.keys(read(x), self._start) if asked else own.values(read(x))).squeeze(-3)
        if not self._start:
            return new
        if receiver not in self._prefixes:
            left = read(self._left[node.layer])
            self._prefixes[receiver] = (own.keys(left) if asked else own.values(left)).squeeze(-3)
        return torch.cat([self._prefixes[receiver].expand(*new.shape[:-2], -1, -1), new], -2)

    def _queries(self, own: Attention, x: Tensor, narrow: bool) -> Tensor:
        if not narrow:
            return own.queries(x, self._start).squeeze(-3)
        # A row's end is turned by its own position: rows stand where positions usually do.
        rotation = own.rotation
        turned = own if rotation is None else replace(own, rotation=lambda _: rotation(self._last))
        return turned.queries(x.squeeze(-2)).movedim(-3, -2)

    def _hidden(self, own: Attention, layer: int, narrow: bool) -> Tensor:
        """bool, what queries may not look at: [L, all positions], of the ends alone [n, 1, all positions]"""
        if (layer, narrow) not in self._masks:
            whole = own.hidden(self._stop, self._stop, 0, self._last.device)
            self._masks[layer, narrow] = whole[self._last][:, None] if narrow else whole[self._start :]
        return self._masks[layer, narrow]

    def _at_ends(self, x: Tensor) -> Tensor:
        """[..., n, L, d] → [..., n, 1, d]"""
        if self._common is not None:
            return x[..., self._common : self._common + 1, :]
        return x[..., self._rows, self._last - self._start, :].unsqueeze(-2)

    def _read(self, now: Tensor) -> None:
        """What every receiver reads as the run starts: receivers of a stage read the same."""
        x = now[0]
        for layer, block in enumerate(self.anatomy.blocks):
            heads = self._senders[Node("head", layer, 0)]
            count = self.graph.heads[layer]
            middle = x + now[heads : heads + count].sum(0)
            if block.attention.output_bias is not None:
                middle = middle + block.attention.output_bias
            self._left.append(x[:, : self._start])
            self._inputs += [x[:, self._start :]] * (count + 2 * self.graph.groups[layer])
            if block.mlp is not None:
                self._inputs.append((x if block.parallel else middle)[:, self._start :])
                middle = middle + now[heads + count]
            x = middle
        self._inputs.append(x[:, self._start :])
