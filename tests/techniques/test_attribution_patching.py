"""Attribution patching against a slow re-derivation, and its two repairs where it fails."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from leaves import KINDS, Slow, exact, some_pairs
from torch import Tensor

from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.access.gradients import shift_scores
from candling.access.pairs import Pairs
from candling.errors import InputError
from candling.organisms.networks.induction import induction
from candling.techniques.locate.attribution_patching import (
    ESTIMATES,
    attribution_patching,
    attribution_patching_star,
)
from candling.techniques.locate.contract import LogitDifference, Metric

ALL = tuple(ESTIMATES)
NAMES = {"resid_pre": "{0}.resid_pre", "attn.out": "{0}.attn.out", "mlp.out": "{0}.mlp.out"}
"""Leaves of the slow run, by layer and index."""


def difference(pairs: Pairs) -> LogitDifference:
    return LogitDifference(pairs.answer, pairs.wrong)


def surprise(pairs: Pairs) -> Metric:
    return lambda logits: logits.log_softmax(-1)[torch.arange(len(logits)), pairs.answer]


class Slowly:
    """Estimates from plain autograd: [n, positions] for each node, by name."""

    def __init__(self, anatomy: Anatomy, pairs: Pairs, metric: Metric, drop: int | None = None) -> None:
        self.anatomy, self.pairs = anatomy, pairs
        self.clean, self.corrupt = Slow(anatomy, pairs.clean, drop=drop), Slow(anatomy, pairs.corrupt)
        self.gradients = self.clean.gradients(pairs, metric)

    def of(self, kind: str, layer: int, index: int) -> Tensor:
        if kind == "mlp.neurons":
            return self.first_order(f"{layer}.mlp.neurons")[..., index]
        return self.first_order(NAMES.get(kind, f"{{0}}.{kind}.{index}").format(layer)).sum(-1)

    def first_order(self, name: str) -> Tensor:
        return (self.corrupt.values[name] - self.clean.values[name]) * self.gradients[name]

    def recomputed(self, layer: int, head: int, query: Tensor, key: Tensor) -> Tensor:
        """The softmax of this query and key, less that of the clean run, times its gradient: [n, L]"""
        attention = self.anatomy.blocks[layer].attention
        name = f"{layer}.pattern.{head}"
        pattern = attention.scores(query[:, None], key[:, None])[:, 0].softmax(-1)
        return ((pattern - self.clean.values[name]) * self.gradients[name]).sum(-1)

    def fixed_query(self, layer: int, head: int) -> Tensor:
        attention = self.anatomy.blocks[layer].attention
        group = head * attention.groups // attention.heads
        key = self.clean.values[f"{layer}.attn.k.{group}"]
        return self.recomputed(layer, head, self.corrupt.values[f"{layer}.attn.q.{head}"], key)

    def fixed_key(self, layer: int, group: int, positions: slice) -> Tensor:
        """With the keys of these positions patched together: [n]"""
        attention = self.anatomy.blocks[layer].attention
        key = self.clean.values[f"{layer}.attn.k.{group}"].clone()
        key[:, positions] = self.corrupt.values[f"{layer}.attn.k.{group}"][:, positions]
        ratio = attention.heads // attention.groups
        readers = range(group * ratio, (group + 1) * ratio)
        found = (self.recomputed(layer, h, self.clean.values[f"{layer}.attn.q.{h}"], key) for h in readers)
        return sum(each.sum(-1) for each in found)


def nodes(scores: Mapping[str, object], kind: str) -> list[tuple[int, int]]:
    """Layer and index of every node; resid_pre apart."""
    values = scores[kind].values
    if kind in NAMES:
        return [(layer, 0) for layer in range(len(values))]
    return [(layer, index) for layer in range(values.shape[0]) for index in range(values.shape[1])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_as_the_definition_gives_it(kind: str) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    for metric in (difference(pairs), surprise(pairs)):
        slowly = Slowly(anatomy, pairs, metric)
        placed = attribution_patching(anatomy, pairs, metric=metric, nodes=ALL, by_position=True)
        whole = attribution_patching(anatomy, pairs, metric=metric, nodes=ALL)
        assert list(placed) == list(whole) == list(ALL)
        for name in ALL:
            for layer, index in nodes(placed, name):
                if name == "resid_pre" and layer == anatomy.depth:
                    expected = slowly.first_order("final.resid_pre").sum(-1).mean(0)
                else:
                    expected = slowly.of(name, layer, index).mean(0)
                own = placed[name].values[layer] if name in NAMES else placed[name].values[layer, index]
                torch.testing.assert_close(own, expected, atol=1e-9, rtol=1e-7)
            if name != "resid_pre":
                torch.testing.assert_close(whole[name].values, placed[name].values.sum(-1), atol=1e-9, rtol=0)
            assert whole[name].values.abs().max() > 1e-3
        assert whole["attn.q"].clean == pytest.approx(float(metric(slowly.clean.ends(pairs).detach()).mean()))
        assert whole["attn.q"].corrupt == pytest.approx(float(metric(slowly.corrupt.ends(pairs).detach()).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_keys_have_their_softmax_recomputed(kind: str) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    metric = difference(pairs)
    slowly = Slowly(anatomy, pairs, metric)
    given = {"metric": metric, "nodes": ("attn.q", "attn.k", "attn.v"), "qk_fix": True}
    placed = attribution_patching(anatomy, pairs, **given, by_position=True)
    whole = attribution_patching(anatomy, pairs, **given)
    for layer, head in nodes(whole, "attn.q"):
        expected = slowly.fixed_query(layer, head).mean(0)
        torch.testing.assert_close(placed["attn.q"].values[layer, head], expected, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(whole["attn.q"].values[layer, head], expected.sum(), atol=1e-9, rtol=1e-7)
    for layer, group in nodes(whole, "attn.k"):
        together = slowly.fixed_key(layer, group, slice(None)).mean(0)
        torch.testing.assert_close(whole["attn.k"].values[layer, group], together, atol=1e-9, rtol=1e-7)
        alone = [slowly.fixed_key(layer, group, slice(p, p + 1)).mean(0) for p in range(pairs.length)]
        torch.testing.assert_close(placed["attn.k"].values[layer, group], torch.stack(alone), atol=1e-9, rtol=1e-7)
    plain = attribution_patching(anatomy, pairs, metric=metric, nodes=("attn.q", "attn.k", "attn.v"))
    assert torch.equal(plain["attn.v"].values, whole["attn.v"].values)
    assert not torch.allclose(plain["attn.q"].values, whole["attn.q"].values)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("by_position", [False, True])
def test_the_star_is_the_mean_magnitude_over_dropped_layers(kind: str, by_position: bool) -> None:
    """Each drop by its own backward pass; those of a node's own layer, which leave nothing of it, apart."""
    base = exact(kind)
    anatomy, pairs = replace(base, blocks=(*base.blocks, base.blocks[0])), some_pairs()
    metric = difference(pairs)
    drops = [Slowly(anatomy, pairs, metric, drop=layer) for layer in range(anatomy.depth)]
    found = attribution_patching_star(anatomy, pairs, metric=metric, nodes=ALL, by_position=by_position)
    for name in ALL:
        for layer, index in nodes(found, name):
            if name == "attn.k" and by_position:
                continue  # as above, by the same function
            own = found[name].values[layer] if name in NAMES else found[name].values[layer, index]
            kept = [drop for place, drop in enumerate(drops) if name == "resid_pre" or place != layer]
            expected = torch.stack([estimate(drop, name, layer, index, by_position).abs() for drop in kept])
            torch.testing.assert_close(own, expected.mean((0, 1)), atol=1e-9, rtol=1e-7)


def estimate(slowly: Slowly, name: str, layer: int, index: int, by_position: bool) -> Tensor:
    """[n] or [n, L], with the softmax recomputed."""
    if name == "attn.k":
        return slowly.fixed_key(layer, index, slice(None))
    if name == "attn.q":
        each = slowly.fixed_query(layer, index)
    elif name == "resid_pre" and layer == slowly.anatomy.depth:
        return slowly.first_order("final.resid_pre").sum(-1)
    else:
        each = slowly.of(name, layer, index)
    return each if by_position or name == "resid_pre" else each.sum(-1)


def test_passes_of_any_size_give_the_same() -> None:
    anatomy, pairs = exact("llama"), some_pairs(5)
    for run in (attribution_patching, attribution_patching_star):
        for metric in (difference(pairs), surprise(pairs)):
            whole = run(anatomy, pairs, metric=metric, nodes=ALL)
            for batch in (1, 2):
                parts = run(anatomy, pairs, metric=metric, nodes=ALL, batch=batch)
                for name in ALL:
                    torch.testing.assert_close(parts[name].values, whole[name].values, atol=1e-10, rtol=0)
                    assert parts[name].cost == whole[name].cost


def test_the_same_prompt_twice_has_no_effect() -> None:
    anatomy, pairs = exact("qwen3"), some_pairs()
    same = replace(pairs, corrupt=pairs.clean)
    for run in (attribution_patching, attribution_patching_star):
        for scores in run(anatomy, same, metric=difference(same), nodes=ALL).values():
            assert scores.values.abs().max() < 1e-12


def test_layers_without_an_mlp_have_no_score_for_it() -> None:
    base, pairs = exact("gpt2"), some_pairs()
    anatomy = replace(base, blocks=(replace(base.blocks[0], mlp=None), base.blocks[1]))
    found = attribution_patching(anatomy, pairs, metric=difference(pairs), nodes=ALL)
    assert found["mlp.out"].there.tolist() == [False, True]
    assert found["mlp.neurons"].there.any(1).tolist() == [False, True]
    assert found["attn.head_out"].there.all()
    without = replace(base, blocks=tuple(replace(block, mlp=None) for block in base.blocks))
    found = attribution_patching(without, pairs, metric=difference(pairs), nodes=ALL)
    assert not found["mlp.out"].there.any()
    assert not found["mlp.neurons"].there.any()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="resid_pre"):
        attribution_patching(exact("gpt2"), some_pairs(), metric=difference(some_pairs()), nodes=["heads"])


NUMBER = st.floats(-30, 30)


@given(st.lists(st.tuples(st.one_of(NUMBER, st.just(-torch.inf)), NUMBER, NUMBER), min_size=1, max_size=6), NUMBER)
def test_one_score_moved_changes_the_softmax_by_what_is_said(rows: list[tuple[float, ...]], top: float) -> None:
    """Saturated or not, hidden or not, against the softmax itself."""
    scores, shift, gradient = torch.tensor([(top, 0.5, 1.0), *rows], dtype=torch.float64).T
    found = shift_scores(scores, shift, gradient)
    for place in range(len(scores)):
        moved = scores.clone()
        moved[place] += shift[place]
        expected = ((moved.softmax(-1) - scores.softmax(-1)) * gradient).sum()
        torch.testing.assert_close(found[place], expected, atol=1e-10, rtol=1e-10)


def test_one_score_moved_is_right_where_single_precision_holds_nothing_of_the_others() -> None:
    """With p = 1 - 2e-13 the others have gone from 1 - p, yet all depends on them when the score falls."""
    scores = torch.tensor([30.0, 0.0, 0.5])
    gradient = torch.tensor([1.0, 2.0, 5.0])
    found = shift_scores(scores, torch.tensor([-60.0, 0.0, 0.0]), gradient)[0]
    moved = torch.tensor([-30.0, 0.0, 0.5]).softmax(-1)
    torch.testing.assert_close(found, ((moved - scores.softmax(-1)) * gradient).sum(), atol=1e-5, rtol=0)


def looking(sharpness: float) -> tuple[Anatomy, Pairs]:
    """One head: the last token says which of two positions to look at; they carry different answers.

    Tokens 1 and 2 look for place 0 and place 1; dimensions: place (2), wanted place (2), answers (2), written (2).
    """
    embedding = torch.zeros(300, 8)
    embedding[1, 2], embedding[2, 3] = 1, 1
    embedding[3, 4], embedding[4, 5] = 1, 1
    positions = torch.zeros(4, 8)
    positions[0, 0], positions[1, 1] = 1, 1
    query, key, value, output = (torch.zeros(1, 2, 8) for _ in range(4))
    query[0, 0, 2], query[0, 1, 3] = sharpness, sharpness
    key[0, 0, 0], key[0, 1, 1] = 1, 1
    value[0, 0, 4], value[0, 1, 5] = 1, 1
    output[0, 0, 6], output[0, 1, 7] = 1, 1
    unembedding = torch.zeros(300, 8)
    unembedding[10, 6], unembedding[11, 7] = 1, 1
    block = Block(Attention(query, key, value, output, 1.0), Norm(), None, Norm())
    parts = (embedding, unembedding, positions)
    clean, corrupt = torch.tensor([[3, 4, 1]]), torch.tensor([[3, 4, 2]])
    pairs = Pairs(clean, corrupt, torch.tensor([10]), torch.tensor([11]), torch.tensor([2]))
    return Anatomy(parts[0], (block,), Norm(), parts[1], positions=parts[2]), pairs


@pytest.mark.parametrize("sharpness", [20.0, 40.0])
def test_a_saturated_softmax_hides_a_query_until_it_is_recomputed(sharpness: float) -> None:
    """Patching the query turns the head round: the metric falls from 1 to -1."""
    anatomy, pairs = looking(sharpness)
    metric = difference(pairs)
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)
    change = corrupt.values["0.attn.q.0"] - clean.values["0.attn.q.0"]
    patched = Slow(anatomy, pairs.clean, added={"0.attn.q.0": change})
    effect = float((metric(patched.ends(pairs)) - metric(clean.ends(pairs))).detach())
    assert effect == pytest.approx(-2, abs=1e-4)
    plain = attribution_patching(anatomy, pairs, metric=metric, nodes=["attn.q"])["attn.q"].values
    assert plain.abs().max() < 1e-4
    for by_position in (False, True):
        given = {"metric": metric, "nodes": ["attn.q"], "by_position": by_position}
        fixed = attribution_patching(anatomy, pairs, qk_fix=True, **given)["attn.q"].values
        assert float(fixed.sum()) == pytest.approx(effect, abs=1e-6)
        star = attribution_patching_star(anatomy, pairs, **given)["attn.q"].values
        assert float(star.sum()) == pytest.approx(-effect, abs=1e-6)


def cancelling() -> tuple[Anatomy, Pairs]:
    """The first layer's MLP copies the token's dimension 0 into 1; the second's takes tanh of it away again."""
    embedding = torch.zeros(300, 2, dtype=torch.float64)
    embedding[2, 0] = 3.0
    unembedding = torch.zeros(300, 2, dtype=torch.float64)
    unembedding[10, 1] = 1.0
    nothing = torch.zeros(1, 1, 2, dtype=torch.float64)
    still = Attention(nothing, nothing, nothing, nothing, 1.0)

    def block(reads: int, sign: float, activation: object) -> Block:
        up, down = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
        up[0, reads], down[1, 0] = 1, sign
        return Block(still, Norm(), MLP(up, down, activation), Norm())

    blocks = (block(0, 1.0, lambda x: 1 * x), block(1, -1.0, torch.tanh))
    row = torch.ones(1, 1, dtype=torch.int64)
    pairs = Pairs(row, 2 * row, torch.tensor([10]), torch.tensor([11]), torch.tensor([0]))
    return Anatomy(embedding, blocks, Norm(), unembedding), pairs


def test_effects_that_cancel_to_first_order_are_seen_with_a_layer_dropped() -> None:
    """The first MLP's exact effect is 3 - tanh(3) = 2.005; its direct and indirect gradient add up to 0."""
    anatomy, pairs = cancelling()
    metric = difference(pairs)
    patched = Slow(anatomy, pairs.clean, added={"0.mlp.out": torch.tensor([[[0.0, 3.0]]]).double()})
    effect = float((metric(patched.ends(pairs)) - metric(Slow(anatomy, pairs.clean).ends(pairs))).detach())
    assert effect == pytest.approx(2.005, abs=1e-3)
    plain = attribution_patching(anatomy, pairs, metric=metric, nodes=["mlp.out"])["mlp.out"].values
    assert plain[0].abs() < 1e-12
    star = attribution_patching_star(anatomy, pairs, metric=metric, nodes=["mlp.out"])["mlp.out"].values
    assert float(star[0]) == pytest.approx(3.0)


def test_in_a_linear_decoder_attribution_is_patching() -> None:
    """Attention that looks at all alike, MLPs without activation, no norms."""
    g = torch.Generator().manual_seed(0)
    blind = torch.zeros(2, 3, 6, dtype=torch.float64)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64) / 2

    def block() -> Block:
        mlp = MLP(some(8, 6), some(6, 8), lambda x: 1 * x)
        return Block(Attention(blind, blind, some(2, 3, 6), some(2, 3, 6), 1.0), Norm(), mlp, Norm())

    anatomy, pairs = Anatomy(some(300, 6), (block(), block(), block()), Norm(), some(300, 6)), some_pairs()
    metric = difference(pairs)
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)

    def patched(name: str, position: slice = slice(None)) -> float:
        change = torch.zeros_like(clean.values[name])
        change[:, position] = (corrupt.values[name] - clean.values[name])[:, position]
        run = Slow(anatomy, pairs.clean, added={name: change})
        return float((metric(run.ends(pairs)) - metric(clean.ends(pairs))).detach().mean())

    found = attribution_patching(anatomy, pairs, metric=metric)
    for layer in range(3):
        assert float(found["mlp.out"].values[layer]) == pytest.approx(patched(f"{layer}.mlp.out"), abs=1e-10)
        assert float(found["attn.out"].values[layer]) == pytest.approx(patched(f"{layer}.attn.out"), abs=1e-10)
        for head in range(2):
            own = float(found["attn.head_out"].values[layer, head])
            assert own == pytest.approx(patched(f"{layer}.attn.head_out.{head}"), abs=1e-10)
        for position in range(pairs.length):
            own = float(found["resid_pre"].values[layer, position])
            assert own == pytest.approx(patched(f"{layer}.resid_pre", slice(position, position + 1)), abs=1e-10)


def saturated() -> tuple[Anatomy, Pairs]:
    """Induction by hand with a sharp softmax; nothing but attention, and logits are linear in what heads write."""
    net = induction(40.0, seed=4)
    return net.anatomy, net.pairs(6, torch.Generator().manual_seed(4))


def by_patching(anatomy: Anatomy, pairs: Pairs, name: str) -> float:
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)
    run = Slow(anatomy, pairs.clean, added={name: corrupt.values[name] - clean.values[name]})
    return float((difference(pairs)(run.ends(pairs)) - difference(pairs)(clean.ends(pairs))).detach().mean())


def test_the_last_layer_s_nodes_are_exact_once_the_softmax_is_recomputed() -> None:
    anatomy, pairs = saturated()
    found = attribution_patching(anatomy, pairs, metric=difference(pairs), nodes=ALL, qk_fix=True)
    largest = 0.0
    for kind in ("attn.q", "attn.k", "attn.v", "attn.head_out"):
        for head in range(4):
            effect = by_patching(anatomy, pairs, f"1.{kind}.{head}")
            assert float(found[kind].values[1, head]) == pytest.approx(effect, abs=1e-4)
            largest = max(largest, abs(effect))
    assert largest > 5


def test_no_recomputed_softmax_and_no_dropped_layer_shows_what_is_upstream_of_a_saturated_one() -> None:
    """The previous-token head acts by the induction head's keys alone; secants carry its effect through them."""
    anatomy, pairs = saturated()
    effect = by_patching(anatomy, pairs, "0.attn.head_out.1")
    assert effect < -5
    given = {"metric": difference(pairs), "nodes": ["attn.head_out"]}
    fixed = attribution_patching(anatomy, pairs, **given, qk_fix=True)["attn.head_out"].values
    assert fixed[0, 1].abs() < 0.05 * abs(effect)
    star = attribution_patching_star(anatomy, pairs, **given)["attn.head_out"].values
    assert star[0, 1] < 0.01 * abs(effect)
    secants = attribution_patching(anatomy, pairs, **given, secants=True)["attn.head_out"].values
    assert float(secants[0, 1]) == pytest.approx(effect, rel=0.05)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_of_two_layers_a_dropped_one_leaves_the_first_its_direct_effect_alone(kind: str) -> None:
    anatomy, pairs = exact(kind), some_pairs()
    metric, rows = difference(pairs), torch.arange(len(some_pairs()))
    clean, corrupt = Slow(anatomy, pairs.clean), Slow(anatomy, pairs.corrupt)
    at_logits = clean.gradients(pairs, metric)["logits"]
    star = attribution_patching_star(anatomy, pairs, metric=metric, nodes=["mlp.out"])
    for name, scores in star.items():
        change = corrupt.values[f"0.{name}"] - clean.values[f"0.{name}"]
        direct = (change * at_logits)[rows, pairs.last].sum(-1).abs().mean()
        torch.testing.assert_close(scores.values[0], direct, atol=1e-9, rtol=1e-7)
