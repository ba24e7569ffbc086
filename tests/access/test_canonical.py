"""Canonical sites of decoders: what transformers itself and plain hooks see, edits as plain hooks make them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from languages import SETTINGS, network
from nets import check_line, unchanged
from torch import Tensor, nn

import own_decoder
from candling.access import Decoder, Layout, canonical_sites, family_of, intervene, observe
from candling.access.canonical import KINDS
from candling.access.layout import layout_from, read_layout
from candling.errors import InputError

KINDS_OF_MODEL = [*sorted(SETTINGS), "own"]
HEADS = 4


def decoder(kind: str) -> tuple[nn.Module, Layout | None]:
    """In float64, with gradients and attention that prefers, and its table where it brings none.

    transformers' RMSNorm and rotations round to float32 on the way, which is what the tolerances allow for.
    """
    torch.manual_seed(0)
    own = own_decoder.build() if kind == "own" else Decoder(network(kind), family_of({"model_type": kind}))
    with torch.no_grad():
        for parameter in own.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1 if kind == "own" else 4)
    return own.double(), layout_from(json.dumps(own_decoder.LAYOUT)) if kind == "own" else None


def prompts(seed: int, length: int = 11) -> Tensor:
    return torch.randint(100, (2, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_streams_and_patterns_are_those_that_transformers_gives_itself(kind: str) -> None:
    """Its eager attention hands out its patterns; eleven tokens are more than mistral's window of eight."""
    source, tokens = network(kind), prompts(1)
    source.set_attn_implementation("eager")
    truth = source(tokens, output_attentions=True, output_hidden_states=True)
    family = family_of({"model_type": kind})
    names = [f"blocks.{layer}.{part}" for layer in (0, 1) for part in ("resid_pre", "attn.pattern", "resid_post")]
    seen = observe(Decoder(network(kind), family), tokens, names).activations
    for layer in (0, 1):
        torch.testing.assert_close(seen[f"blocks.{layer}.resid_pre"], truth.hidden_states[layer], atol=1e-6, rtol=0)
        torch.testing.assert_close(seen[f"blocks.{layer}.attn.pattern"], truth.attentions[layer], atol=1e-6, rtol=0)
    last = source.get_submodule(family.final_norm)(seen["blocks.1.resid_post"])
    torch.testing.assert_close(last, truth.hidden_states[-1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_sites_fit_together_as_the_definition_of_a_decoder_says(kind: str) -> None:
    module, layout = decoder(kind)
    names = canonical_sites(module, layout)
    found = observe(module, prompts(2), names, layout=layout)
    assert torch.equal(found.logits, module(prompts(2)))
    parallel = "blocks.1.resid_mid" not in names
    assert parallel == (kind == "gpt_neox")
    at = {name.removeprefix("blocks.1."): value.detach() for name, value in found.activations.items()}
    values = at["attn.v"].repeat_interleave(HEADS // at["attn.v"].shape[1], 1)
    mixed = torch.einsum("nhql,nhle->nhqe", at["attn.pattern"], values)
    torch.testing.assert_close(at["attn.mixed"], mixed, atol=1e-9, rtol=0)
    bias = at["attn.out"] - at["attn.head_out"].sum(1)
    torch.testing.assert_close(bias, bias[:1, :1].expand_as(bias), atol=1e-9, rtol=0)
    middle = at["resid_pre"] + at["attn.out"]
    if not parallel:
        assert torch.equal(at["resid_mid"], middle)
    torch.testing.assert_close(at["mlp.in"], at["resid_pre"] if parallel else middle, atol=1e-9, rtol=0)
    torch.testing.assert_close(at["resid_post"], middle + at["mlp.out"], atol=1e-9, rtol=0)
    for slot in "qkv":
        assert torch.equal(at[f"attn.head_{slot}_in"][:, 1], at["resid_pre"])
    assert torch.equal(found.activations["blocks.0.resid_post"], found.activations["blocks.1.resid_pre"])
    for name in ("attn.head_out", "attn.k"):
        alone = observe(module, prompts(2), [f"blocks.1.{name}.1"], layout=layout).activations
        assert torch.equal(alone[f"blocks.1.{name}.1"], at[name][:, 1])


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_an_edit_that_changes_nothing_changes_no_bit(kind: str) -> None:
    module, layout = decoder(kind)
    tokens = prompts(3)
    with unchanged(module):
        bare = module(tokens).detach()
        for name in ["embed", *(name for name in canonical_sites(module, layout) if ".1." in name)]:
            assert torch.equal(intervene(module, tokens, {name: lambda x: x}, layout=layout), bare), name
        assert torch.equal(module(tokens), bare)


PLAIN = {
    "gpt2": ("transformer.h.1", "attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("gpt_neox.layers.1", "attention.dense", "mlp.dense_4h_to_h"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), ("model.layers.1", "self_attn.o_proj", "mlp.down_proj")),
    "own": ("stack.1", "mix.merge", "wide.fall"),
}


def plainly(module: nn.Module, tokens: Tensor, path: str, change: Callable[[Tensor], Tensor], before: bool) -> Tensor:
    """The usual way: one of torch's own hooks."""

    def ahead(part: nn.Module, args: Any, named: Any) -> Any:
        return (
            ((change(args[0]), *args[1:]), named)
            if args
            else (args, {"hidden_states": change(named["hidden_states"])})
        )

    def behind(part: nn.Module, args: Any, output: Any) -> Any:
        return change(output) if isinstance(output, Tensor) else (change(output[0]), *output[1:])

    part = module.get_submodule(path)
    handle = part.register_forward_pre_hook(ahead, with_kwargs=True) if before else part.register_forward_hook(behind)
    try:
        return module(tokens)
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_edits_do_what_plain_hooks_do(kind: str) -> None:
    """Head 2 silenced, position 3 of the stream doubled, one hidden unit off, the MLP's output negated."""
    module, layout = decoder(kind)
    tokens = prompts(4)
    block, merge, down = PLAIN[kind]
    size = module.get_submodule(f"{block}.{merge}").weight.numel() // 32 // HEADS
    silent, place, unit = slice(2 * size, 3 * size), torch.tensor([3]), torch.tensor([5])

    def without(x: Tensor, columns: Any, dim: int = -1) -> Tensor:
        return x.index_fill(dim, torch.arange(x.shape[dim])[columns], 0)

    def double(x: Tensor) -> Tensor:
        return x.index_copy(1, place, 2 * x[:, place])

    for name, change, path, plain, before in (
        ("attn.head_out.2", torch.zeros_like, f"{block}.{merge}", lambda x: without(x, silent), True),
        ("attn.mixed", lambda x: without(x, [2], 1), f"{block}.{merge}", lambda x: without(x, silent), True),
        ("resid_pre", double, block, double, True),
        ("resid_post", double, block, double, False),
        ("mlp.neurons", lambda x: without(x, unit), f"{block}.{down}", lambda x: without(x, unit), True),
        ("mlp.out", torch.neg, f"{block}.{down}", torch.neg, False),
        ("attn.out", torch.neg, f"{block}.{merge}", torch.neg, False),
    ):
        own = intervene(module, tokens, {f"blocks.1.{name}": change}, layout=layout)
        torch.testing.assert_close(own, plainly(module, tokens, path, plain, before), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_the_same_swap_at_other_sites_gives_the_same_logits(kind: str) -> None:
    """Patterns instead of queries and keys, heads' inputs instead of the normed stream, the middle for attention."""
    module, layout = decoder(kind)
    own, other = prompts(5), prompts(6)
    names = [name for name in canonical_sites(module, layout) if name.startswith("blocks.1.")]
    given = {
        name.removeprefix("blocks.1."): value.detach()
        for name, value in observe(module, other, names, layout=layout).activations.items()
    }

    def swapped(*sites: str) -> Tensor:
        edits = {f"blocks.1.{site}": lambda x, site=site: given[site] for site in sites}
        return intervene(module, own, edits, layout=layout)

    reads = [f"attn.head_{slot}_in" for slot in "qkv"]
    same = [
        [("attn.q", "attn.k"), ("attn.pattern",), ("attn.head_q_in", "attn.head_k_in")],
        [("attn.norm",), ("attn.q", "attn.k", "attn.v"), reads, ("attn.mixed",), ("attn.head_out",), ("attn.out",)],
        [("mlp.in",), ("mlp.norm",), ("mlp.neurons",), ("mlp.out",)],
        [("resid_post",), ("resid_pre",), *([("resid_mid",)] if "resid_mid" in given else [])],
    ]
    for group in same:
        first, *rest = (swapped(*sites) for sites in group)
        assert not torch.allclose(first, module(own), atol=1e-2)
        for each in rest:
            torch.testing.assert_close(each, first, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped("resid_pre"), module(other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_gradients_are_those_of_the_logits(kind: str) -> None:
    """At every site against a difference of two edits; of the weights, as without anybody looking."""
    module, layout = decoder(kind)
    tokens = prompts(7, 6)
    names = [name for name in canonical_sites(module, layout) if name.startswith("blocks.1.")]
    weights = torch.randn(2, 6, module(tokens).shape[-1], generator=torch.Generator().manual_seed(8)).double()
    found = observe(module, tokens, names, grad=True, layout=layout)
    value = (found.logits * weights).sum()
    step, generator = 1e-3, torch.Generator().manual_seed(9)
    slopes = torch.autograd.grad(value, [found.activations[name] for name in names], retain_graph=True)
    for name, slope in zip(names, slopes, strict=True):
        way = torch.randn(slope.shape, generator=generator).double()
        ends = [
            (intervene(module, tokens, {name: lambda x, s=s, w=way: x + s * w}, layout=layout) * weights).sum()
            for s in (step, -step)
        ]
        measured = float(ends[0] - ends[1]) / (2 * step)
        assert float((slope * way).sum()) == pytest.approx(measured, rel=2e-3, abs=0.02), name
    own = torch.autograd.grad(value, list(module.parameters()))
    bare = torch.autograd.grad((module(tokens) * weights).sum(), list(module.parameters()))
    for here, there in zip(own, bare, strict=True):
        torch.testing.assert_close(here, there, atol=1e-8, rtol=1e-8)


def test_names_that_are_not_there_are_one_line() -> None:
    module, _ = decoder("gpt_neox")
    for name, says in (
        ("blocks.2.resid_pre", "no block 2; the network has 2"),
        ("blocks.1.attn.head_out.4", "has no head 4; there are 4"),
        ("blocks.1.resid_mid", "side by side"),
        ("blocks.1.attn.head_ouT", r"nearest: blocks\.1\.attn\.head_out"),
        ("blocks.1.mlp.out.0", r"nearest: blocks\.1\.mlp\.out"),
    ):
        with pytest.raises(InputError, match=says) as raised:
            observe(module, prompts(1), [name])
        check_line(raised.value)
    with pytest.raises(InputError, match=r"no site blocks\.0\.resid_pre"):
        observe(own_decoder.build(), prompts(1), ["blocks.0.resid_pre"])  # without its table
    with pytest.raises(InputError, match="no table says"):
        canonical_sites(own_decoder.build())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"groups": 4}, "does not fit"),
        ({"rotary_base": 10_000}, "differ by"),
        ({"activation": "gelu"}, "differ by"),
        ({"mlp_norm": "before"}, r"blocks\.0\.mlp\.in is not what"),
        ({"heads": 0}, "lacks heads"),
        ({"heads": 3, "groups": 2}, "do not divide"),
        ({"up": "wide.up"}, "does not fit"),
        ({"blocks": "words"}, "does not fit"),
        ({"unembedding": "stack.0.wide.rise"}, "does not fit|not \\["),
    ],
)
def test_a_table_of_ones_own_that_does_not_fit_is_refused(changed: dict[str, Any], says: str) -> None:
    torch.manual_seed(0)
    module = own_decoder.build()
    layout = layout_from(json.dumps({**own_decoder.LAYOUT, **changed}))
    with unchanged(module), pytest.raises(InputError, match=says) as raised:
        observe(module, prompts(1), ["blocks.0.resid_pre"], layout=layout)
    check_line(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ('{"block": "a"}', "no field block; nearest: blocks"),
        ('{"blocks": "a"}', "lacks embedding, unembedding, final_norm"),
        ('{"blocks": "a", "blocks": "b"}', "given twice"),
        (json.dumps({**own_decoder.LAYOUT, "fused": ""}), "lacks query, key and value"),
        (json.dumps({**own_decoder.LAYOUT, "down": ""}), "belong together"),
        (json.dumps({**own_decoder.LAYOUT, "blocks": "__import__('os')"}), "not a path"),
        (json.dumps({**own_decoder.LAYOUT, "heads": True}), "heads is True, not a number"),
        (json.dumps({**own_decoder.LAYOUT, "heads": 2.5}), "heads is 2.5, not a number"),
        (json.dumps({**own_decoder.LAYOUT, "parallel": 1}), "not true or false"),
        (json.dumps({**own_decoder.LAYOUT, "groups": -1}), "groups is -1, not a number"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        layout_from(text)
    check_line(raised.value)


def test_a_table_goes_through_json_and_files(tmp_path: Any) -> None:
    layout = layout_from(json.dumps(own_decoder.LAYOUT))
    assert layout_from(layout.json) == layout
    (tmp_path / "table.json").write_text(layout.json)
    assert read_layout(tmp_path / "table.json") == layout
    with pytest.raises(InputError, match="no such file"):
        read_layout(tmp_path / "none.json")
    first = canonical_sites(decoder("llama")[0])[: len(KINDS)]
    assert [name.removeprefix("blocks.0.") for name in first] == list(KINDS)
