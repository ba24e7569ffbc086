"""Sweeps give what a forward hook gives, patch by patch; what cannot matter costs nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import SETTINGS, VOCABULARY
from torch import Tensor

from candling.access import Decoder, family_of, parts
from candling.access.anatomy import Anatomy
from candling.access.dissect import dissect
from candling.access.parts import Part
from candling.access.sweep import Swept, sweep
from candling.access.sweep_plain import streams, streams_of_both, sweep_plain
from candling.access.trace import both, mean, resample, trace, zero
from candling.errors import InputError

KINDS = sorted(SETTINGS)
LENGTH, FIRST, DEPTH = 13, 3, 4
"""Longer than the window that mistral's attention slides (8)."""

_built: dict[str, tuple[Decoder, Anatomy]] = {}


def network(kind: str) -> tuple[Decoder, Anatomy]:
    """Four blocks deep, so that patches join; weights large enough that attention is no mere average."""
    if kind not in _built:
        depth = "n_layer" if kind == "gpt2" else "num_hidden_layers"
        config = transformers.AutoConfig.for_model(kind, **{**SETTINGS[kind], depth: DEPTH})
        torch.manual_seed(0)
        source = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in source.parameters():
            if parameter.ndim == 2:
                parameter *= 4
            elif "norm" not in kind:
                parameter += 0.1 * torch.randn_like(parameter)
        decoder = Decoder(source, family_of({"model_type": kind})).eval()
        _built[kind] = decoder, dissect(decoder).anatomy
    return _built[kind]


def prompts(first: int = FIRST, length: int = LENGTH, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Alike before `first`, unlike at every position from there on."""
    clean = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))
    corrupt = clean.clone()
    corrupt[first:] = (clean[first:] + 7) % VOCABULARY
    return clean, corrupt


def hooked(
    decoder: Decoder, path: str, change: Callable[[Tensor], Tensor], tokens: Tensor, *, inward: bool
) -> Tensor:
    """Logits [B, V] at the last position, with a module's first input or its output changed [B, L, w] → [B, L, w]."""

    def before(module: Any, args: Any, named: Any) -> Any:
        return (change(args[0]), *args[1:]), named

    def after(module: Any, args: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    module = decoder.get_submodule(path)
    if inward:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        return decoder(tokens)[:, -1]
    finally:
        handle.remove()


def values(decoder: Decoder, path: str, tokens: Tensor, *, inward: bool) -> Tensor:
    """[L, w] what the module reads or gives."""
    seen: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        seen.append(value[0].clone())
        return value

    hooked(decoder, path, keep, tokens[None], inward=inward)
    return seen[0]


NEURONS = [[0, 47], [5], [], [11, 2, 30]]


def site(decoder: Decoder, part: Part, layer: int) -> tuple[str, bool, list[slice]]:
    """A part's module, whether it is its input, and each unit's columns."""
    family, config = decoder.family, decoder.get_submodule(decoder.family.base).config
    block, whole = f"{family.blocks}.{layer}", [slice(None)]
    if part.name == "attn.head_out":
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        each = [slice(size * h, size * (h + 1)) for h in range(config.num_attention_heads)]
        return f"{block}.{family.layout.attention_output}", True, each
    if part.name == "mlp.neurons":
        return f"{block}.{family.layout.down}", True, [slice(j, j + 1) for j in NEURONS[layer]]
    return {
        "resid_pre": (block, True, whole),
        "resid_post": (block, False, whole),
        "attn.out": (f"{block}.{family.layout.attention}", False, whole),
        "mlp.out": (f"{block}.{family.layout.mlp}", False, whole),
    }[part.name]


def one_by_one(decoder: Decoder, part: Part, own: Tensor, other: Tensor, *, by_position: bool) -> Tensor:
    """The same as a sweep's logits, a whole pass with a plain hook for each patch."""
    tables = [site(decoder, part, layer) for layer in range(DEPTH)]
    shape = (DEPTH, max(len(units) for _, _, units in tables), len(own) if by_position else 1, VOCABULARY)
    logits = torch.full(shape, torch.nan, dtype=decoder.embedding.dtype)
    at = torch.arange(shape[2])
    for layer, (path, inward, units) in enumerate(tables):
        theirs = values(decoder, path, other, inward=inward)
        for unit, columns in enumerate(units):

            def change(value: Tensor, columns: slice = columns, its: Tensor = theirs) -> Tensor:
                value = value.clone()
                if by_position:  # in row i of the batch position i
                    value[at, at, columns] = its[:, columns]
                else:
                    value[:, :, columns] = its[:, columns]
                return value

            logits[layer, unit] = hooked(decoder, path, change, own.expand(len(at), -1), inward=inward)
    return logits


def swept(anatomy: Anatomy, own: Tensor, other: Tensor, part: Part, **options: Any) -> Swept:
    ours, theirs = both(anatomy, own, other)
    return sweep(anatomy, ours, given=theirs, part=part, **options)


PARTS = [parts.resid_pre, parts.resid_post, parts.heads, parts.attention, parts.mlp, parts.neurons(NEURONS)]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_is_a_forward_hook_for_each_patch(kind: str, part: Part) -> None:
    decoder, anatomy = network(kind)
    clean, corrupt = prompts(first=9 if part is parts.heads else FIRST)
    for by_position in (True, False):
        expected = one_by_one(decoder, part, clean, corrupt, by_position=by_position)
        result = swept(anatomy, clean, corrupt, part, by_position=by_position)
        torch.testing.assert_close(result.logits, expected, atol=1e-5, rtol=1e-5, equal_nan=True)
        assert (result.logits - result.own).nan_to_num().abs().max() > 1e-2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "gpt_neox"])
def test_between_attention_and_mlp(kind: str) -> None:
    """To put another run's stream there is to let attention add the difference to what the block read."""
    decoder, anatomy = network(kind)
    clean, corrupt = prompts()
    ours, theirs = both(anatomy, clean, corrupt)
    result = sweep(anatomy, ours, given=theirs, part=parts.resid_mid)
    for layer in range(DEPTH):
        added = theirs.mid(layer) - ours.pre[layer]
        for place in range(FIRST, LENGTH, 3):

            def change(value: Tensor, place: int = place, added: Tensor = added) -> Tensor:
                value = value.clone()
                value[:, place] = added[place]
                return value

            path = f"{decoder.family.blocks}.{layer}.{decoder.family.layout.attention}"
            expected = hooked(decoder, path, change, clean[None], inward=False)[0]
            torch.testing.assert_close(result.logits[layer, 0, place], expected, atol=1e-5, rtol=1e-5)


def test_nothing_lies_between_attention_and_mlp_side_by_side() -> None:
    with pytest.raises(InputError, match="side by side"):
        swept(network("gpt_neox")[1], *prompts(), parts.resid_mid)


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_themselves_give_the_same(kind: str) -> None:
    decoder, _ = network(kind)
    clean, corrupt = prompts()
    ours, theirs = streams_of_both(decoder, clean, corrupt)
    result = sweep_plain(decoder, ours, given=theirs.read)
    expected = one_by_one(decoder, parts.resid_pre, clean, corrupt, by_position=True)
    torch.testing.assert_close(result.logits, expected, atol=1e-5, rtol=1e-5)
    some = torch.tensor([4, 250])
    few = sweep_plain(decoder, ours, given=theirs.read, layers=[1, 3], tokens=some)
    torch.testing.assert_close(few.logits[[1, 3]], result.logits[[1, 3]][..., some], atol=1e-5, rtol=1e-5)
    assert few.logits[[0, 2]].isnan().all()


def test_the_network_is_left_as_it_was() -> None:
    decoder, _ = network("llama")
    decoder.train()
    streams(decoder, prompts()[0])
    assert all(part.training for part in decoder.modules())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in decoder.modules())
    decoder.eval()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_what_stands_before_the_first_difference_is_nothing(part: Part) -> None:
    """Exactly, and it is not computed."""
    _, anatomy = network("qwen3")
    clean, corrupt = prompts(first=9)
    late = swept(anatomy, clean, corrupt, part)
    assert torch.equal(
        late.logits[:, :, :9].nan_to_num(),
        late.own.expand_as(late.logits[:, :, :9]).where(~late.logits[:, :, :9].isnan(), 0.0),
    )
    assert 0 < late.passes < swept(anatomy, *prompts(first=1), part).passes / 3
    same = swept(anatomy, clean, clean, part)
    assert same.passes == 0
    assert torch.equal(same.logits.nan_to_num(), same.own.where(~same.logits.isnan(), torch.zeros(())))


def test_a_changed_token_costs_one_cell_of_the_first_block() -> None:
    _, anatomy = network("gpt2")
    clean, _ = prompts()
    corrupt = clean.clone()
    corrupt[5] = (corrupt[5] + 1) % VOCABULARY
    result = swept(anatomy, clean, corrupt, parts.resid_pre, layers=[0])
    moved = (result.logits[0, 0] != result.own).any(-1)
    assert moved.nonzero().flatten().tolist() == [5]
    torch.testing.assert_close(result.logits[0, 0, 5], anatomy(corrupt)[-1], atol=1e-5, rtol=1e-5)


@settings(max_examples=15)
@given(
    kind=st.sampled_from(KINDS),
    length=st.integers(1, 20),
    seed=st.integers(0, 99),
    limit=st.integers(1, 60),
    data=st.data(),
)
def test_how_patches_are_batched_does_not_matter(kind: str, length: int, seed: int, limit: int, data: Any) -> None:
    _, anatomy = network(kind)
    clean, corrupt = prompts(data.draw(st.integers(0, length - 1)), length, seed)
    part = data.draw(st.sampled_from(PARTS))
    by_position = data.draw(st.booleans())
    whole = swept(anatomy, clean, corrupt, part, by_position=by_position)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("candling.access.sweep._limit", lambda anatomy, length: limit)
        patch.setattr("candling.access.sweep._ROWS", 3)
        parts_of_it = swept(anatomy, clean, corrupt, part, by_position=by_position)
    torch.testing.assert_close(parts_of_it.logits, whole.logits, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert parts_of_it.passes == pytest.approx(whole.passes)


def test_some_layers_and_some_tokens() -> None:
    _, anatomy = network("mistral")
    whole = swept(anatomy, *prompts(), parts.heads)
    some = torch.tensor([3, 299, 3])
    few = swept(anatomy, *prompts(), parts.heads, layers=[2], tokens=some)
    torch.testing.assert_close(few.logits[2], whole.logits[2][..., some], atol=1e-5, rtol=1e-5)
    assert few.logits[[0, 1, 3]].isnan().all()
    assert few.passes < whole.passes / 2
    most = swept(anatomy, *prompts(), parts.heads, measure=lambda logits: logits.max(-1).values[:, None])
    torch.testing.assert_close(most.logits[..., 0], whole.logits.max(-1).values, atol=1e-5, rtol=1e-5)
    assert most.own.item() == pytest.approx(float(whole.own.max()))


def test_a_record_is_the_run() -> None:
    for kind in KINDS:
        decoder, anatomy = network(kind)
        clean, _ = prompts()
        run = trace(anatomy, clean)
        torch.testing.assert_close(anatomy.unembed(run.pre[-1]), decoder(clean[None])[0], atol=1e-5, rtol=1e-5)
        for layer in range(DEPTH):
            torch.testing.assert_close(run.mid(layer) + run.risen[layer], run.pre[layer + 1])


def test_sources() -> None:
    _, anatomy = network("llama")
    clean, corrupt = prompts()
    _, other = both(anatomy, clean, corrupt)
    reference = torch.stack([prompts(seed=seed, length=LENGTH + 2)[0] for seed in range(21)])
    by_hand = torch.stack([trace(anatomy, row).neurons[2] for row in reference]).mean(0)[:LENGTH]
    torch.testing.assert_close(mean(reference)(anatomy, other).neurons[2], by_hand)
    assert resample(anatomy, other) is other
    assert all((layer == 0).all() for layer in zero(anatomy, other).mixed)
    with pytest.raises(InputError, match="as long"):
        mean(reference[:, :5])(anatomy, other)


def test_neurons_that_are_not_there() -> None:
    _, anatomy = network("llama")
    with pytest.raises(InputError, match="layer 1 has no neuron 48"):
        swept(anatomy, *prompts(), parts.neurons([[], [48], [], []]))
    with pytest.raises(InputError, match="lists for 1 layers"):
        swept(anatomy, *prompts(), parts.neurons([[1]]))
