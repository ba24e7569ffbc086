"""Activation patching: its identities, planted truth, and agreement with runs patched one at a time."""

from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import relu

from candling.access import Decoder, family_of, parts
from candling.access.anatomy import MLP, Anatomy, Attention, Block, Norm
from candling.access.dissect import dissect
from candling.access.pairs import Pairs
from candling.access.sweep import sweep
from candling.access.trace import both, mean, trace, zero
from candling.errors import InputError
from candling.techniques.locate.contract import LogitDifference, Scores
from candling.techniques.locate.patching import patch
from candling.techniques.locate.random_scores import random_scores

VOCABULARY, DEPTH, LENGTH, FIRST = 60, 3, 9, 2


def decoder() -> Decoder:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    source = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    for parameter in source.parameters():
        parameter *= 8 if parameter.ndim == 2 else 1
    return Decoder(source, family_of({"model_type": "llama"})).eval()


WHOLE = decoder().double()
ANATOMY = dissect(WHOLE).anatomy


def some_pairs(lasts: tuple[int, ...] = (LENGTH - 1, LENGTH - 1, 5)) -> Pairs:
    """Of unlike lengths, alike before FIRST; padded with token 0 behind `last`."""
    generator = torch.Generator().manual_seed(3)
    n = len(lasts)
    clean = torch.randint(1, VOCABULARY, (n, LENGTH), generator=generator)
    corrupt = torch.cat([clean[:, :FIRST], 1 + clean[:, FIRST:] % (VOCABULARY - 1)], 1)
    last = torch.tensor(lasts)
    behind = torch.arange(LENGTH) > last[:, None]
    answer, wrong = torch.arange(n) + 4, torch.arange(n) + 30
    return Pairs(clean.masked_fill(behind, 0), corrupt.masked_fill(behind, 0), answer, wrong, last)


PAIRS = some_pairs()

ROUNDED = 1e-6
"""transformers computes this family's norms in float32, whatever the weights are."""


def ends(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """The metric of each pair [n] on the clean and on the corrupt prompts, by whole passes."""
    metric, rows = LogitDifference(pairs.answer, pairs.wrong), torch.arange(len(pairs))
    clean, corrupt = (metric(WHOLE(tokens)[rows, pairs.last]) for tokens in (pairs.clean, pairs.corrupt))
    return clean, corrupt


@pytest.mark.parametrize("denoising", [False, True])
def test_everything_is_all_and_nothing_is_nothing(denoising: bool) -> None:
    """All positions of what the first block reads, or of what any block gives, are the other run."""
    clean, corrupt = ends(PAIRS)
    for part, layers in ((parts.resid_pre, None), (parts.resid_post, None), (parts.resid_mid, [DEPTH - 1])):
        scores = patch(ANATOMY, PAIRS, part=part, by_position=False, layers=layers, denoising=denoising)
        assert scores.clean == pytest.approx(float(clean.mean()), abs=ROUNDED)
        assert scores.corrupt == pytest.approx(float(corrupt.mean()), abs=ROUNDED)
        torch.testing.assert_close(scores.share, torch.ones_like(scores.share))
    same = replace(PAIRS, corrupt=PAIRS.clean)
    for part in (parts.resid_pre, parts.heads, parts.mlp):
        assert (patch(ANATOMY, same, part=part, denoising=denoising).values == 0).all()


def test_the_last_blocks_output_at_the_end_is_the_corrupt_metric() -> None:
    clean, corrupt = ends(PAIRS)
    values = patch(ANATOMY, PAIRS, part=parts.resid_post).values[DEPTH - 1]
    expected = torch.zeros(LENGTH, dtype=torch.float64)
    expected.index_add_(0, PAIRS.last, (corrupt - clean) / len(PAIRS))
    torch.testing.assert_close(values, expected, atol=ROUNDED, rtol=0)


@pytest.mark.parametrize("denoising", [False, True])
def test_positions_before_the_first_difference_and_behind_the_end_are_nothing(denoising: bool) -> None:
    for part in (parts.resid_pre, parts.heads, parts.attention, parts.mlp, parts.resid_post):
        values = patch(ANATOMY, PAIRS, part=part, denoising=denoising).values
        assert (values[..., :FIRST] == 0).all()
        assert (values[..., FIRST:] != 0).any()
        alone = patch(ANATOMY, PAIRS.take(torch.tensor([2])), part=part, denoising=denoising).values
        assert (alone[..., 6:] == 0).all()


def test_several_pairs_are_the_mean_of_each_by_itself() -> None:
    for options in ({}, {"denoising": True}, {"part": parts.heads}, {"part": parts.mlp, "by_position": False}):
        each = [patch(ANATOMY, PAIRS.take(torch.tensor([row])), **options) for row in range(len(PAIRS))]
        whole = patch(ANATOMY, PAIRS, **options)
        torch.testing.assert_close(whole.values, torch.stack([own.values for own in each]).mean(0))
        assert whole.clean == pytest.approx(sum(own.clean for own in each) / len(each))
        assert whole.cost.backward == 0
        assert 2 * len(PAIRS) < whole.cost.forward <= sum(own.cost.forward for own in each)


def test_padding_does_not_matter() -> None:
    short = PAIRS.take(torch.tensor([2]))
    cut = replace(short, clean=short.clean[:, :6], corrupt=short.corrupt[:, :6])
    torch.testing.assert_close(patch(ANATOMY, cut).values, patch(ANATOMY, short).values[:, :6])


def test_denoising_is_noising_with_the_prompts_exchanged() -> None:
    exchanged = replace(PAIRS, clean=PAIRS.corrupt, corrupt=PAIRS.clean)
    for part in (parts.resid_pre, parts.heads):
        torch.testing.assert_close(
            patch(ANATOMY, PAIRS, part=part, denoising=True).values, patch(ANATOMY, exchanged, part=part).values
        )


def test_any_metric_will_do() -> None:
    """One that is no `LogitDifference` but says the same, and one that needs all logits."""
    answers = LogitDifference(PAIRS.answer, PAIRS.wrong)
    plain = patch(ANATOMY, PAIRS, metric=lambda logits: answers(logits))
    torch.testing.assert_close(plain.values, patch(ANATOMY, PAIRS).values)

    def chance(logits: Tensor) -> Tensor:
        return logits.softmax(-1)[torch.arange(len(logits)), PAIRS.answer]

    rows = torch.arange(len(PAIRS))
    scores = patch(ANATOMY, PAIRS, metric=chance, part=parts.resid_post, by_position=False, layers=[1])
    clean, corrupt = (chance(WHOLE(tokens)[rows, PAIRS.last]).mean() for tokens in (PAIRS.clean, PAIRS.corrupt))
    assert scores.clean == pytest.approx(float(clean), abs=ROUNDED)
    assert scores.values.item() == pytest.approx(float(corrupt - clean), abs=ROUNDED)


def test_a_decoder_as_a_whole_gives_the_same() -> None:
    for options in ({}, {"denoising": True}, {"layers": [2, 0]}):
        ours, theirs = patch(ANATOMY, PAIRS, **options), patch(WHOLE, PAIRS, **options)
        torch.testing.assert_close(theirs.values, ours.values, atol=ROUNDED, rtol=0)
        assert (theirs.axes, theirs.clean) == (ours.axes, pytest.approx(ours.clean, abs=ROUNDED))
    with pytest.raises(InputError, match="dissect it"):
        patch(WHOLE, PAIRS, part=parts.heads)
    with pytest.raises(InputError, match="dissect it"):
        patch(WHOLE, PAIRS, source=zero)


def test_means_and_zeros_are_put_in() -> None:
    """Re-derived from the definition: the MLP's output at one position is replaced in a plain loop over blocks."""
    reference = torch.randint(VOCABULARY, (7, LENGTH), generator=torch.Generator().manual_seed(5))
    pair = PAIRS.take(torch.tensor([0]))
    averages = torch.stack([trace(ANATOMY, row).risen[1] for row in reference]).mean(0)
    before = ends(pair)[0]
    for source, given in ((zero, torch.zeros_like(averages)), (mean(reference), averages)):
        values = patch(ANATOMY, pair, part=parts.mlp, source=source).values
        for place in range(LENGTH):
            x = ANATOMY.embed(pair.clean[0])
            for layer, block in enumerate(ANATOMY.blocks):
                middle = x + block.attention(block.attention_norm(x))
                added = block.mlp(block.mlp_norm(middle))
                if layer == 1:
                    added[place] = given[place]
                x = middle + added
            logits = ANATOMY.unembed(x)[-1]
            after = logits[pair.answer[0]] - logits[pair.wrong[0]]
            torch.testing.assert_close(values[1, place], after - before[0], atol=ROUNDED, rtol=0)
        assert values[:, 0].abs().max() > 1e-6  # a mean differs before the first difference too


def gate(*, both_needed: bool) -> Anatomy:
    """Two neurons read a token each, at positions 0 and 1, by two heads; their OR or AND is the logit of token 1.

    Tokens 0 and 1 are off and on. The stream holds on, position 0, position 1, end, what either head saw, and the
    answer; each head looks at its own position.
    """
    on, first, second, end, left, right, answer = range(7)
    size = torch.eye(7, dtype=torch.float64)
    big = 50.0
    heads = Attention(
        query=torch.stack([big * size[end], big * size[end]])[:, None],
        key=torch.stack([size[first], size[second]])[:, None],
        value=torch.stack([size[on], size[on]])[:, None],
        output=torch.stack([size[left], size[right]])[:, None],
        scale=1.0,
    )
    seen = size[left] + size[right]
    up = torch.stack([seen, seen])
    mlp = MLP(
        up=up,
        down=torch.stack([size[answer], -size[answer]], 1),
        activation=relu,
        up_bias=torch.tensor([-1.0, -2.0] if both_needed else [0.0, -1.0], dtype=torch.float64),
    )
    block = Block(attention=heads, attention_norm=Norm(), mlp=mlp, mlp_norm=Norm())
    return Anatomy(
        embedding=torch.stack([0 * size[on], size[on]]),
        blocks=(block,),
        final_norm=Norm(),
        unembedding=torch.stack([0 * size[answer], size[answer]]),
        positions=size[[first, second, end]],
    )


@pytest.mark.parametrize(("both_needed", "denoising"), [(True, False), (False, True)])
def test_the_direction_that_sees_a_gate_sees_both_heads_and_the_other_neither(
    both_needed: bool, denoising: bool
) -> None:
    """Noising finds the parts of an AND, denoising those of an OR."""
    pairs = Pairs(
        torch.tensor([[1, 1, 0]]), torch.tensor([[0, 0, 0]]), torch.tensor([1]), torch.tensor([0]), torch.tensor([2])
    )
    network = gate(both_needed=both_needed)
    sees = patch(network, pairs, part=parts.heads, denoising=denoising)
    misses = patch(network, pairs, part=parts.heads, denoising=not denoising)
    torch.testing.assert_close(sees.share[0, :, 2], torch.ones(2, dtype=torch.float64))
    assert (sees.values[0, :, :2] == 0).all()
    torch.testing.assert_close(misses.values, torch.zeros_like(misses.values))


def test_axes_say_what_was_patched() -> None:
    def named(scores: Scores) -> list[tuple[str, tuple[str, ...]]]:
        return [(axis.name, axis.labels) for axis in scores.axes]

    places, layers = ("position", tuple("012345678")), ("layer", tuple("012"))
    assert named(patch(ANATOMY, PAIRS)) == [layers, places]
    assert named(patch(ANATOMY, PAIRS, layers=[0])) == [("layer", ("0",)), places]
    assert named(patch(ANATOMY, PAIRS, part=parts.heads)) == [layers, ("head", tuple("0123")), places]
    uneven = patch(ANATOMY, PAIRS, part=parts.neurons([[7, 1], [], [3]]), by_position=False)
    assert named(uneven) == [layers, ("neuron", ("0", "1"))]
    assert uneven.there.tolist() == [[True, True], [False, False], [True, False]]
    even = patch(ANATOMY, PAIRS, part=parts.neurons([[7, 1]] * DEPTH), by_position=False)
    assert named(even) == [layers, ("neuron", ("7", "1"))]
    ours, theirs = both(ANATOMY, PAIRS.clean[0], PAIRS.corrupt[0])
    alone = patch(ANATOMY, PAIRS.take(torch.tensor([0])), part=parts.neurons([[7, 1], [], [3]]), by_position=False)
    swept = sweep(ANATOMY, ours, given=theirs, part=parts.neurons([[7, 1], [], [3]]), by_position=False)
    logits = swept.logits[:, :, 0] - swept.own
    expected = logits[..., PAIRS.answer[0]] - logits[..., PAIRS.wrong[0]]
    torch.testing.assert_close(alone.values, expected, equal_nan=True)


@pytest.mark.parametrize("layers", [[], [DEPTH], [0, 0], [-1]])
def test_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(InputError, match="not different layers"):
        patch(ANATOMY, PAIRS, layers=layers)


def test_no_pair_is_no_result() -> None:
    with pytest.raises(InputError, match="at least one"):
        patch(ANATOMY, PAIRS.take(slice(0, 0)))


def test_random_scores_know_nothing_but_the_axes() -> None:
    like = patch(ANATOMY, PAIRS, part=parts.neurons([list(range(24)), [], list(range(12))]))
    drawn = random_scores(like, seed=1)
    assert (drawn.axes, drawn.clean, drawn.corrupt) == (like.axes, like.clean, like.corrupt)
    assert torch.equal(drawn.there, like.there)
    assert drawn.cost.forward == 0
    assert torch.equal(random_scores(like, seed=1).values.nan_to_num(), drawn.values.nan_to_num())
    assert not torch.equal(random_scores(like, seed=2).values.nan_to_num(), drawn.values.nan_to_num())
    own, its = like.values[like.there], drawn.values[like.there]
    assert float(its.std()) == pytest.approx(float(own.pow(2).mean().sqrt()), rel=0.2)
    assert abs(float(torch.corrcoef(torch.stack([own.abs(), its.abs()]))[0, 1])) < 0.25
