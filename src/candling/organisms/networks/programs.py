"""Two programs written into weights: a sequence reversed, and the share of a token so far.

In the spirit of Tracr (Lindner et al., 2301.05062), by a construction of our own: values are one-hot, selectors are
sharp, ReLUs compute exactly. Without noise every edge outside the circuit carries nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import relu

from candling.access.anatomy import MLP, Anatomy, Norm
from candling.access.pairs import Pairs
from candling.organisms.networks.gates import (
    Head,
    KnownCircuit,
    attention,
    block,
    edges,
    last_of,
    noised,
    subspaces,
    wire,
)

LETTERS, LONGEST = 12, 6
SEPARATOR = LETTERS
REVERSE_LENGTH = 2 * LONGEST
_SHARP, _TEMPERATURE = 40.0, 8.0
_LENGTH_HEAD, _COPY_HEAD = "blocks.0.attn.head_{}.0", "blocks.1.attn.head_{}.1"


def reverse(*, noise: float = 0.0, seed: int = 0) -> KnownCircuit:
    """`a b c | c b` → `a`: letters, a separator, and then the letters from the last to the first.

    A head finds the separator, whose position is the length; the MLP turns length n and own position t into
    2 n - 1 - t; a head of the second layer fetches the letter that stands there. The two prompts differ in letters
    and length. Three edges carry positions that no prompt changes: only ablation (zero, mean) can show them.
    """
    place, width = subspaces(
        token=LETTERS + 1, position=REVERSE_LENGTH, length=REVERSE_LENGTH, source=REVERSE_LENGTH, out=13, unused=13
    )
    embedding, positions = torch.zeros(LETTERS + 1, width), torch.zeros(REVERSE_LENGTH, width)
    embedding[:, place["token"]] = torch.eye(LETTERS + 1)
    positions[:, place["position"]] = torch.eye(REVERSE_LENGTH)
    unembedding = torch.zeros(LETTERS + 1, width)
    unembedding[:, place["out"]] = _TEMPERATURE * torch.eye(LETTERS + 1)
    size = LETTERS + 1

    def read(name: str) -> Tensor:
        return wire(place[name], size, width)

    to_separator = torch.zeros(size, width)
    to_separator[0, place["token"].start + SEPARATOR] = 1.0
    first = Head(
        torch.zeros(size, width), to_separator, read("position"), read("length"), query_bias=torch.eye(size)[0]
    )
    copied = Head(read("source"), read("position"), read("token"), read("out"))
    ideal = Anatomy(
        embedding=embedding,
        blocks=(
            block(
                attention(first, replace(first, value=read("token"), output=read("unused")), scale=_SHARP),
                _subtraction(place, width),
            ),
            block(attention(replace(copied, output=read("unused")), copied, _idle(size, width), scale=_SHARP)),
        ),
        final_norm=Norm(),
        unembedding=unembedding,
        positions=positions,
    )
    return KnownCircuit(
        name="reverse",
        anatomy=noised(ideal, noise, torch.Generator().manual_seed(seed)),
        ideal=ideal,
        truth=edges(ideal, REVERSE_EDGES),
        draw=_reverse_pairs,
        uses=_reverse_uses,
    )


REVERSE_EDGES = (
    ("embed", _LENGTH_HEAD.format("k_in")),
    ("embed", _LENGTH_HEAD.format("v_in")),
    ("embed", "blocks.0.mlp.in"),
    (_LENGTH_HEAD.format("out"), "blocks.0.mlp.in"),
    ("blocks.0.mlp.out", _COPY_HEAD.format("q_in")),
    ("embed", _COPY_HEAD.format("k_in")),
    ("embed", _COPY_HEAD.format("v_in")),
    (_COPY_HEAD.format("out"), "logits"),
)


def _subtraction(place: Mapping[str, slice], width: int) -> MLP:
    """One neuron for each length n and position t: on where both are so, it writes the source 2 n - 1 - t."""
    cases = [(n, t) for n in range(1, LONGEST + 1) for t in range(n, 2 * n)]
    up, down = torch.zeros(len(cases), width), torch.zeros(width, len(cases))
    for neuron, (n, t) in enumerate(cases):
        up[neuron, place["length"].start + n] = 1.0
        up[neuron, place["position"].start + t] = 1.0
        down[place["source"].start + 2 * n - 1 - t, neuron] = 1.0
    return MLP(up, down, relu, up_bias=torch.full((len(cases),), -1.0))


def _idle(size: int, width: int) -> Head:
    """Looks everywhere and says nothing."""
    return Head(*(torch.zeros(size, width) for _ in range(4)))


def _reverse_pairs(n: int, generator: torch.Generator) -> Pairs:
    """Both prompts end at the same position, in different places of sequences of different lengths."""
    letters = torch.rand(n, LETTERS, generator=generator).argsort(-1)
    ends = torch.randint(4, 2 * LONGEST - 2, (n,), generator=generator)
    rows = []
    for own, end in zip(letters.split(1), ends.tolist(), strict=True):
        lengths = torch.arange(end // 2 + 1, min(end, LONGEST) + 1)
        chosen = lengths[torch.randperm(len(lengths), generator=generator)[:2]].tolist()
        halves = own[0].split(LONGEST)
        rows.append([_reversed(half, length, end) for half, length in zip(halves, chosen, strict=True)])
    clean, corrupt = (torch.stack([row[which][0] for row in rows]) for which in (0, 1))
    answer, wrong = (torch.tensor([row[which][1] for row in rows]) for which in (0, 1))
    return Pairs(clean, corrupt, answer, wrong, ends)


def _reversed(letters: Tensor, length: int, end: int) -> tuple[Tensor, int]:
    """A prompt [REVERSE_LENGTH] that ends at `end`, filled up with separators, and the letter that follows."""
    own = letters[:length]
    whole = torch.cat([own, torch.tensor([SEPARATOR]), own.flip(0)])
    prompt = torch.full((REVERSE_LENGTH,), SEPARATOR)
    prompt[: end + 1] = whole[: end + 1]
    return prompt, int(whole[end + 1])


def _reverse_uses(pairs: Pairs) -> dict[str, Tensor]:
    last = last_of(pairs)
    before = torch.arange(pairs.length) <= pairs.last[:, None]
    separator = (pairs.clean == SEPARATOR) & before
    source = pairs.clean == pairs.answer[:, None]
    return {
        _LENGTH_HEAD.format("k_in"): separator,
        _LENGTH_HEAD.format("v_in"): separator,
        "blocks.0.mlp.in": last,
        _COPY_HEAD.format("q_in"): last,
        _COPY_HEAD.format("k_in"): source,
        _COPY_HEAD.format("v_in"): source,
        "logits": last,
    }


KINDS, FRACTION_LENGTH = 4, 8
"""Letters, of which token 0 is counted; the answers k/8 follow them: token KINDS + k."""
_STEEP = 60.0
_COUNT_HEAD = "blocks.1.attn.head_{}.1"

FRACTION_EDGES = (
    ("embed", "blocks.0.mlp.in"),
    ("blocks.0.mlp.out", _COUNT_HEAD.format("v_in")),
    (_COUNT_HEAD.format("out"), "blocks.1.mlp.in"),
    ("blocks.1.mlp.out", "logits"),
)


def fraction(*, noise: float = 0.0, seed: int = 0) -> KnownCircuit:
    """The share of token 0 among all tokens so far, to the nearest eighth.

    The first MLP tells whether a token is counted, a head that looks everywhere alike averages this, and the second
    MLP turns the share into a one-hot answer by steep steps, which leave no gradient.
    """
    place, width = subspaces(token=KINDS, counted=1, other=1, share=1, out=FRACTION_LENGTH + 1, unused=4)
    vocabulary = KINDS + FRACTION_LENGTH + 1
    embedding, unembedding = torch.zeros(vocabulary, width), torch.zeros(vocabulary, width)
    embedding[:KINDS, place["token"]] = torch.eye(KINDS)
    unembedding[KINDS:, place["out"]] = _TEMPERATURE * torch.eye(FRACTION_LENGTH + 1)
    up, down = torch.zeros(2, width), torch.zeros(width, 2)
    up[0, place["token"].start], up[1, place["token"].start + 1] = 1.0, 1.0
    down[place["counted"].start, 0], down[place["other"].start, 1] = 1.0, 1.0
    nothing = torch.zeros(KINDS, width)
    mean = Head(nothing, nothing, wire(place["counted"], KINDS, width), wire(place["share"], KINDS, width))
    other = replace(mean, value=wire(place["other"], KINDS, width), output=wire(place["unused"], KINDS, width))
    same = Head(*(wire(place[name], KINDS, width) for name in ("token", "token", "token", "unused")))
    ideal = Anatomy(
        embedding=embedding,
        blocks=(
            block(attention(same, _idle(KINDS, width), scale=_SHARP), MLP(up, down, relu)),
            block(attention(other, mean, scale=_SHARP), _nearest(place, width)),
        ),
        final_norm=Norm(),
        unembedding=unembedding,
    )
    return KnownCircuit(
        name="fraction so far",
        anatomy=noised(ideal, noise, torch.Generator().manual_seed(seed)),
        ideal=ideal,
        truth=edges(ideal, FRACTION_EDGES),
        draw=_fraction_pairs,
        uses=_fraction_uses,
    )


def _nearest(place: Mapping[str, slice], width: int) -> MLP:
    """A share → one-hot of the nearest k/8: a step up half an eighth below it, and down half an eighth above.

    Shares of at most eight tokens never lie in the steps, which are 1/60 wide.
    """
    count = FRACTION_LENGTH + 1
    middles = (torch.arange(count + 1) - 0.5) / FRACTION_LENGTH
    up, down = torch.zeros(2 * (count + 1), width), torch.zeros(width, 2 * (count + 1))
    up[:, place["share"]] = _STEEP
    bias = torch.cat([0.5 - _STEEP * middles, -0.5 - _STEEP * middles])  # relu(z + 1/2) - relu(z - 1/2) is a step
    for k in range(count):
        for step, sign in ((k, 1.0), (k + 1, -1.0)):
            down[place["out"].start + k, step] = sign
            down[place["out"].start + k, count + 1 + step] = -sign
    return MLP(up, down, relu, up_bias=bias)


def _fraction_pairs(n: int, generator: torch.Generator) -> Pairs:
    """Both prompts have eight letters; their counts of token 0 differ."""
    drawn = torch.rand(n, FRACTION_LENGTH + 1, generator=generator).argsort(-1)[:, :2]
    prompts = []
    for counts in drawn.unbind(1):
        places = torch.rand(n, FRACTION_LENGTH, generator=generator).argsort(-1)
        others = torch.randint(1, KINDS, (n, FRACTION_LENGTH), generator=generator)
        prompts.append(torch.where(places < counts[:, None], 0, others))
    answer, wrong = (KINDS + drawn).unbind(1)
    clean, corrupt = prompts
    return Pairs(clean, corrupt, answer, wrong, torch.full((n,), FRACTION_LENGTH - 1))


def _fraction_uses(pairs: Pairs) -> dict[str, Tensor]:
    everywhere, last = torch.ones_like(pairs.clean, dtype=torch.bool), last_of(pairs)
    return {
        "blocks.0.mlp.in": everywhere,
        _COUNT_HEAD.format("v_in"): everywhere,
        "blocks.1.mlp.in": last,
        "logits": last,
    }
