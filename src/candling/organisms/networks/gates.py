"""Networks whose circuit is known: what each of them tells, and the smallest of them, an AND and an OR of two heads.

Weights are written by hand. The truth is for those who grade: what is graded receives the network and the prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.access.edges import written
from candling.access.graph import Node, graph_of
from candling.access.pairs import Pairs
from candling.access.wording import bad_input

VARIES = 1e-4
"""Least change of what a receiver reads that counts; what circuits carry is of order 1."""


@dataclass(frozen=True, eq=False)
class KnownCircuit:
    """A network, prompts for it, and which edges compute its behaviour."""

    name: str
    anatomy: Anatomy
    ideal: Anatomy
    """The same network without noise in its weights."""
    truth: Tensor
    """bool [senders, receivers] in the order of `graph_of`"""
    draw: Callable[[int, torch.Generator], Pairs]
    uses: Callable[[Pairs], Mapping[str, Tensor]]
    """Receivers of the circuit by name: bool [n, L], the positions at which the circuit needs what they read."""
    swallowed: Mapping[bool, Tensor] = field(default_factory=dict)
    """By direction (True: denoising), bool [senders, receivers]: true edges whose change a gate lets nobody see."""

    def pairs(self, n: int, generator: torch.Generator) -> Pairs:
        return self.draw(n, generator)

    def ablatable(self, *, denoising: bool = False) -> Tensor:
        """bool [senders, receivers]: the true edges that zeros in their place can show: all that no gate swallows."""
        return self.truth & ~self.swallowed[denoising] if denoising in self.swallowed else self.truth

    def identifiable(self, pairs: Pairs, *, denoising: bool = False) -> Tensor:
        """bool [senders, receivers]: the true edges that these pairs can show.

        A change of one edge is seen only if what its receiver reads from its sender differs between the two
        prompts, at a position that the circuit uses, and if no gate swallows the change.
        """
        nodes = graph_of(self.ideal)
        clean, corrupt = (written(self.ideal, tokens) for tokens in (pairs.clean, pairs.corrupt))
        used = self.uses(pairs)
        found = torch.zeros_like(self.truth)
        for sender, receiver in torch.nonzero(self.truth).tolist():
            node = nodes.receivers[receiver]
            change = linear(corrupt[sender] - clean[sender], reading(self.ideal, node)).abs().amax(-1)
            found[sender, receiver] = bool(((change > VARIES) & used[str(node)]).any())
        return found & self.ablatable(denoising=denoising)


def reading(anatomy: Anatomy, receiver: Node) -> Tensor:
    """[read, d], the map by which a receiver reads the residual stream."""
    if receiver.kind == "logits":
        return anatomy.unembedding
    block = anatomy.blocks[receiver.layer]
    if receiver.kind == "mlp":
        assert block.mlp is not None
        return block.mlp.up
    maps = {"q": block.attention.query, "k": block.attention.key, "v": block.attention.value}
    return maps[receiver.slot][receiver.index]


def edges(anatomy: Anatomy, named: Iterable[tuple[str, str]]) -> Tensor:
    """bool [senders, receivers] with True at these pairs of names. Raises InputError where there is no such edge."""
    graph = graph_of(anatomy)
    senders, receivers = ([str(node) for node in nodes] for nodes in (graph.senders, graph.receivers))
    found = torch.zeros(len(senders), len(receivers), dtype=torch.bool)
    for sender, receiver in named:
        if sender not in senders or receiver not in receivers:
            raise bad_input("edge", f"this network has no edge from {sender} to {receiver}; see graph_of")
        found[senders.index(sender), receivers.index(receiver)] = True
    if (found & ~graph.edges).any():
        raise bad_input("edge", "a receiver stands before its sender; name edges in the order of computation")
    return found


@dataclass(frozen=True, eq=False)
class Head:
    """One head's maps [e, d]."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    query_bias: Tensor | None = None
    """[e]: a query that is the same everywhere."""


def attention(*heads: Head, scale: float) -> Attention:
    """scale: on query · key before the softmax."""
    query, key, value, output = (
        torch.stack([getattr(head, name) for head in heads]) for name in ("query", "key", "value", "output")
    )
    none = torch.zeros(query.shape[1])
    bias = torch.stack([none if head.query_bias is None else head.query_bias for head in heads])
    return Attention(query, key, value, output, scale, query_bias=bias)


def block(own: Attention, mlp: MLP | None = None) -> Block:
    """Without norms."""
    return Block(own, Norm(), mlp, Norm())


def subspaces(**sizes: int) -> tuple[dict[str, slice], int]:
    """Names → where each lies in the residual stream, and the width of all together."""
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = slice(start, start + size)
        start += size
    return found, start


def wire(place: slice, size: int, width: int, *, shift: int = 0) -> Tensor:
    """[e, d]: row i + shift is coordinate i of a subspace."""
    found = torch.zeros(size, width)
    for i in range(place.stop - place.start):
        if 0 <= i + shift < size:
            found[i + shift, place.start + i] = 1.0
    return found


def noised(anatomy: Anatomy, amount: float, generator: torch.Generator) -> Anatomy:
    """Gaussian noise of this standard deviation on every weight, so that no attribution is exactly zero."""
    if amount == 0:
        return anatomy

    def shaken(owner: object, *names: str) -> dict[str, Tensor]:
        own = {name: getattr(owner, name) for name in names}
        return {
            name: value + amount * torch.randn(value.shape, generator=generator)
            for name, value in own.items()
            if value is not None
        }

    blocks = []
    for each in anatomy.blocks:
        heads = replace(each.attention, **shaken(each.attention, "query", "key", "value", "output"))  # type: ignore[arg-type]
        mlp = each.mlp and replace(each.mlp, **shaken(each.mlp, "up", "down"))  # type: ignore[arg-type]
        blocks.append(replace(each, attention=heads, mlp=mlp))
    rest = shaken(anatomy, "embedding", "positions", "unembedding")
    return replace(anatomy, blocks=tuple(blocks), **rest)  # type: ignore[arg-type]


OFF_A, ON_A, OFF_B, ON_B, YES, NO, END = range(7)
FILLERS = 9
GATE_LENGTH = 7
_SHARP, _TEMPERATURE = 40.0, 5.0


def and_gate(*, noise: float = 0.0, seed: int = 0) -> KnownCircuit:
    """YES if A and B are both on. The clean prompt has both on, the corrupt one both off.

    Noising (corrupt values into the clean run) finds both parts: either one turns the answer. Denoising finds
    neither, since one part alone does nothing; only the gate's own output is seen.
    """
    return _gate("AND gate", torch.tensor([1.0, 0.0]), hidden_when=True, noise=noise, seed=seed)


def or_gate(*, noise: float = 0.0, seed: int = 0) -> KnownCircuit:
    """YES if A or B is on. Denoising finds both parts; noising finds neither, since the other part suffices."""
    return _gate("OR gate", torch.tensor([-1.0, 1.0]), hidden_when=False, noise=noise, seed=seed)


def _gate(name: str, weights: Tensor, *, hidden_when: bool, noise: float, seed: int) -> KnownCircuit:
    """weights: [2] of relu(a + b - 1) and relu(a + b) in the answer. hidden_when: the direction that is blind."""
    place, width = subspaces(kinds=2, on=1, filler=FILLERS + 3, a=1, b=1, gate=1, unused=3)
    embedding = torch.zeros(END + 1 + FILLERS, width)
    for token, (kind, on) in enumerate([(0, 0.0), (0, 1.0), (1, 0.0), (1, 1.0)]):
        embedding[token, place["kinds"].start + kind] = 1.0
        embedding[token, place["on"]] = on
    embedding[YES:, place["filler"]] = torch.eye(FILLERS + 3)
    unused = place["unused"].start
    heads = (
        _finder(place, 0, place["a"].start, width),
        _finder(place, 1, place["b"].start, width),
        _finder(place, 0, unused, width),  # finds A as well, and tells nobody
        replace(_finder(place, 1, unused, width), output=torch.zeros(2, width)),
    )
    up = torch.zeros(2, width)
    up[:, [place["a"].start, place["b"].start]] = 1.0
    down = torch.zeros(width, 2)
    down[place["gate"]] = weights
    unembedding = torch.zeros(len(embedding), width)
    unembedding[YES, place["gate"]], unembedding[NO, place["gate"]] = _TEMPERATURE, -_TEMPERATURE
    bias = torch.full((len(embedding),), -_TEMPERATURE)
    bias[YES], bias[NO] = -_TEMPERATURE / 2, _TEMPERATURE / 2
    mlp = MLP(up, down, relu, up_bias=torch.tensor([-1.0, 0.0]))
    ideal = Anatomy(
        embedding, (block(attention(*heads, scale=_SHARP), mlp),), Norm(), unembedding, unembedding_bias=bias
    )
    parts = edges(ideal, [*_found_by(0), *_found_by(1)])
    return KnownCircuit(
        name=name,
        anatomy=noised(ideal, noise, torch.Generator().manual_seed(seed)),
        ideal=ideal,
        truth=parts | edges(ideal, [("blocks.0.mlp.out", "logits")]),
        draw=_gate_pairs,
        uses=_gate_uses,
        swallowed={hidden_when: parts},
    )


def _finder(place: Mapping[str, slice], kind: int, target: int, width: int) -> Head:
    """Attends to the token of a kind, wherever it stands, and writes whether it is on."""
    key, value, output = (torch.zeros(2, width) for _ in range(3))
    key[0, place["kinds"].start + kind] = 1.0
    value[0, place["on"]] = 1.0
    output[0, target] = 1.0
    return Head(torch.zeros(2, width), key, value, output, query_bias=torch.tensor([1.0, 0.0]))


def _found_by(head: int) -> list[tuple[str, str]]:
    inputs = [("embed", f"blocks.0.attn.head_{slot}_in.{head}") for slot in "kv"]
    return [*inputs, (f"blocks.0.attn.head_out.{head}", "blocks.0.mlp.in")]


def _gate_pairs(n: int, generator: torch.Generator) -> Pairs:
    """A's and B's token anywhere among fillers, END last; on in the clean prompt, off in the corrupt one."""
    clean = torch.randint(END + 1, END + 1 + FILLERS, (n, GATE_LENGTH), generator=generator)
    clean[:, -1] = END
    places = torch.rand(n, GATE_LENGTH - 1, generator=generator).argsort(-1)[:, :2]
    clean.scatter_(1, places, torch.tensor([ON_A, ON_B]).expand(n, 2))
    corrupt = clean.scatter(1, places, torch.tensor([OFF_A, OFF_B]).expand(n, 2))
    return Pairs(clean, corrupt, torch.full((n,), YES), torch.full((n,), NO), torch.full((n,), GATE_LENGTH - 1))


def _gate_uses(pairs: Pairs) -> dict[str, Tensor]:
    def at(on: int, off: int) -> Tensor:
        return (pairs.clean == on) | (pairs.clean == off)

    last = last_of(pairs)
    heads = {
        f"blocks.0.attn.head_{slot}_in.{head}": at(*tokens)
        for slot in "kv"
        for head, tokens in enumerate([(ON_A, OFF_A), (ON_B, OFF_B)])
    }
    return {**heads, "blocks.0.mlp.in": last, "logits": last}


def last_of(pairs: Pairs) -> Tensor:
    """bool [n, L]: the position whose logits count."""
    return torch.arange(pairs.length) == pairs.last[:, None]
