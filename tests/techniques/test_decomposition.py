"""The decomposition is exact: sums are the logits, circuits are what heads do, compositions are plain products."""

from dataclasses import replace

import pytest
import torch
from drawn_decoders import VOCABULARY, decoder, difference, prompts
from torch import Tensor

from candling.access.anatomy import Anatomy, Attention, Block, Norm
from candling.access.edges import written
from candling.errors import InputError
from candling.organisms.networks.induction import induction
from candling.techniques.locate.decomposition import (
    BIAS,
    composition,
    direct_effects,
    direct_logits,
    ov_circuit,
    qk_circuit,
)

THREE = decoder(layers=3)


def single(part: object) -> object:
    """The same in float32."""
    if isinstance(part, Tensor):
        return part.float()
    if isinstance(part, tuple):
        return tuple(single(each) for each in part)
    if isinstance(part, Anatomy | Block | Attention | Norm) or type(part).__name__ == "MLP":
        return replace(part, **{name: single(value) for name, value in vars(part).items()})  # type: ignore[type-var]
    return part


@pytest.mark.parametrize("centred", [False, True])
def test_the_parts_add_up_to_the_logits(centred: bool) -> None:
    its, rows = prompts(), torch.arange(3)
    shifted = replace(THREE, unembedding_bias=torch.arange(VOCABULARY, dtype=torch.float64))
    for anatomy, most in ((shifted, 1e-10), (single(replace(shifted, blocks=shifted.blocks[2:])), 1e-5)):
        assert isinstance(anatomy, Anatomy)
        logits = anatomy(its.clean)[rows, its.last]
        wanted = logits - logits.mean(-1, keepdim=True) if centred else logits
        found = direct_logits(anatomy, its.clean, its.last, centred=centred)
        assert found.labels[0] == "embed"
        assert found.labels[-1] == BIAS
        torch.testing.assert_close(found.values.sum(0), wanted, atol=most, rtol=most)
        few = direct_logits(anatomy, its.clean, its.last, answers=torch.tensor([4, 2]), centred=centred)
        torch.testing.assert_close(few.values, found.values[..., [4, 2]])


def test_a_part_s_share_is_what_it_moves_while_the_norm_stands_still() -> None:
    """The final norm, centred, with a bias: shares are the slope of the logits along a part, the scale held."""
    its, rows = prompts(), torch.arange(3)
    x = written(THREE, its.clean)[:, rows, its.last]
    biases = sum(b.attention.output_bias for b in THREE.blocks if b.attention.output_bias is not None)
    total = x.sum(0) + biases
    scale = (total.var(-1, unbiased=False) + THREE.final_norm.eps).sqrt()[:, None]
    found = direct_logits(THREE, its.clean, its.last)
    for part, value in zip(x, found.values[:-1], strict=True):
        truth = (part - part.mean(-1, keepdim=True)) / scale * THREE.final_norm.weight @ THREE.unembedding.T
        torch.testing.assert_close(value, truth)


@pytest.mark.parametrize("denoising", [False, True])
def test_direct_effects_are_differences_of_shares_at_one_scale(denoising: bool) -> None:
    its = prompts(3)
    metric, scores = difference(its), direct_effects(THREE, its, denoising=denoising)
    base, other = (its.corrupt, its.clean) if denoising else (its.clean, its.corrupt)
    rows = torch.arange(len(its))
    own, new = (written(THREE, tokens)[:, rows, its.last] for tokens in (base, other))
    total = own.sum(0) + THREE.blocks[2].attention.output_bias
    scale = (total.var(-1, unbiased=False) + THREE.final_norm.eps).sqrt()[:, None]
    for place in range(len(own)):
        change = new[place] - own[place]
        change = (change - change.mean(-1, keepdim=True)) / scale * THREE.final_norm.weight
        assert float(scores.values[place]) == pytest.approx(float(metric(change @ THREE.unembedding.T).mean()))
    assert scores.clean == pytest.approx(float(metric(THREE(its.clean)[rows, its.last]).mean()))
    assert scores.corrupt == pytest.approx(float(metric(THREE(its.corrupt)[rows, its.last]).mean()))
    free = replace(THREE, final_norm=Norm())
    exact = direct_effects(free, its, denoising=denoising)
    assert float(exact.share.sum()) == pytest.approx(1)


def test_circuits_are_what_heads_compute() -> None:
    block = decoder(4).blocks[0]
    own, norm = replace(block.attention, rotation=None), block.attention_norm
    x = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    read = norm(x)
    scores = own.queries(read) @ own.spread(own.keys(read)).mT * own.scale
    told = own.written(own.spread(own.values(read)))
    size = x.pow(2).mean(-1, keepdim=True).add(norm.eps).sqrt()
    for head in range(own.heads):
        torch.testing.assert_close(read @ qk_circuit(own, head) @ read.T, scores[head])
        torch.testing.assert_close(read @ ov_circuit(own, head), told[head])
        torch.testing.assert_close(x / size @ qk_circuit(own, head, norm) @ (x / size).T, scores[head])
        torch.testing.assert_close(x / size @ ov_circuit(own, head, norm), told[head])
    with pytest.raises(InputError, match="normed"):
        qk_circuit(replace(own, key_norm=Norm(eps=1e-5)), 0)
    centred = Norm(eps=0.0, centred=True, weight=norm.weight)
    even = (x - x.mean(-1, keepdim=True)) / x.std(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(
        x @ ov_circuit(own, 1, centred),
        x.std(-1, unbiased=False, keepdim=True) * (even * norm.weight @ ov_circuit(own, 1)),
    )


def test_compositions_are_products_of_whole_matrices() -> None:
    found = composition(THREE, shuffles=2)
    assert len(found.heads) == 12
    heads = [(block, head) for block in THREE.blocks for head in range(4)]
    for w, (writer, i) in enumerate(heads):
        for r, (reader, j) in enumerate(heads):
            if w // 4 >= r // 4:
                assert found.values[:, w, r].isnan().all()
                continue
            ov = ov_circuit(writer.attention, i, writer.attention_norm)
            qk, then = (f(reader.attention, j, reader.attention_norm) for f in (qk_circuit, ov_circuit))
            for slot, map_ in enumerate((qk, qk.T, then)):
                truth = (ov @ map_).norm() / (ov.norm() * map_.norm())
                torch.testing.assert_close(found.values[slot, w, r], truth)


def test_a_planted_composition_stands_out_and_nothing_else_does() -> None:
    anatomy = decoder(7, heads=4, groups=4, width=64)
    before = composition(anatomy)
    assert float(before.z.nan_to_num().abs().max()) < 6
    first, second = anatomy.blocks
    keys = second.attention.key.clone()
    keys[3] = first.attention.output[1] / second.attention_norm.weight  # reads just what head 1 writes
    planted = replace(anatomy, blocks=(first, replace(second, attention=replace(second.attention, key=keys))))
    after = composition(planted)
    (best, other) = after.best("k", 2)
    assert best[:2] == ("blocks.0.attn.head_out.1", "blocks.1.attn.head_out.3")
    assert best[2] > 10 > other[2]
    torch.testing.assert_close(after.values[[0, 2]][..., :7], before.values[[0, 2]][..., :7], equal_nan=True)
    with pytest.raises(InputError, match="shuffles"):
        composition(anatomy, shuffles=1)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_in_a_compiled_induction_network_the_previous_token_head_is_read_by_keys(noise: float) -> None:
    """By keys of the induction head, and by nothing else so strongly.

    Maps of ones and zeros, shuffled, meet by chance more often than dense ones: the baseline is wide.
    """
    found = composition(induction(noise=noise).anatomy)
    (best,) = found.best("k", 1)
    assert best[:2] == ("blocks.0.attn.head_out.1", "blocks.1.attn.head_out.2")
    assert best[2] > 2
    table = found.values[1].nan_to_num()
    assert float(table.max()) == float(table[1, 4 + 2])
