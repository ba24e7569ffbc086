"""Adapters over one shared decoder: what a view computes, and what it leaves alone."""

import builtins
import copy
from pathlib import Path

import languages
import pytest
import torch
from safetensors.torch import save_file

from candling.access import Decoder, load_language, lowrank, read_weights, sha256_state
from candling.access.extend import extend, extend_both
from candling.access.observe import observe
from candling.errors import InputError

KINDS = list(languages.SETTINGS)


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("model")
    languages.save(request.param, folder)
    module = load_language(folder).model.module
    assert isinstance(module, Decoder)
    return module


def state(base: Decoder, seed: int, rank: int = lowrank.RANK) -> dict[str, torch.Tensor]:
    """An adapter with random factors, large enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    fresh = lowrank.adapter_state(lowrank.attach(base, rank))
    return {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in fresh.items()}


def by_hand(base: Decoder, states: list[dict[str, torch.Tensor]]) -> Decoder:
    """The base with the mean of the adapters' changes added to its weights, one matrix product at a time."""

    module = copy.deepcopy(base)
    for path in lowrank.adapted_maps(base):
        weight = module.get_parameter(f"{path}.weight")
        for one in states:
            a, b = (one[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
            change = (lowrank.ALPHA / len(a)) * (b.double() @ a.double()) / len(states)
            transposed = type(base.get_submodule(path)).__name__ == "Conv1D"
            weight.data += (change.T if transposed else change).float()
    return module


IDS = torch.randint(languages.VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))


def test_a_fresh_view_computes_what_its_base_does(base: Decoder) -> None:
    view = lowrank.attach(base)
    assert isinstance(view, Decoder)
    assert torch.equal(view(IDS), base(IDS))
    asking = [name for name, p in view.named_parameters() if p.requires_grad]
    assert asking
    assert all("lora_" in name for name in asking)
    assert not any(p.requires_grad for p in base.parameters())


def test_every_linear_map_of_the_blocks_and_nothing_else_is_adapted(base: Decoder) -> None:
    inside = {f"{base.family.blocks}.0.{name}" for name in (base.layout.attention_output, base.layout.down)}
    paths = set(lowrank.adapted_maps(base))
    assert inside <= paths
    assert base.family.unembedding not in paths
    values = sum(v.numel() for v in lowrank.adapter_state(lowrank.attach(base)).values())
    assert values == lowrank.adapter_values(base)


def test_a_view_is_the_merged_network(base: Decoder) -> None:
    one = state(base, 0)
    view, merged = lowrank.adapted(base, one), by_hand(base, [one])
    assert (merged(IDS) - base(IDS)).abs().max() > 1e-2
    torch.testing.assert_close(view(IDS), merged(IDS), atol=1e-5, rtol=1e-5)
    whole = lowrank.whole(view)
    torch.testing.assert_close(whole(IDS), merged(IDS), atol=1e-5, rtol=1e-5)
    assert [name for name, _ in whole.named_parameters()] == [name for name, _ in base.named_parameters()]
    shared = {p.data_ptr() for p in base.parameters()}
    assert not shared & {p.data_ptr() for p in whole.parameters()}


def test_it_extends_and_is_observed_like_a_decoder(base: Decoder) -> None:
    one = state(base, 0)
    view, merged = lowrank.adapted(base, one), by_hand(base, [one])
    site = f"{base.family.blocks}.1"
    tails = IDS[:, :2]
    for ours, theirs in zip(
        extend(view, IDS, tails, sites=[site]), extend(merged, IDS, tails, sites=[site]), strict=True
    ):
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.states[site], theirs.states[site], atol=1e-5, rtol=1e-5)
    seen, wanted = (observe(d, IDS, [site]).activations[site] for d in (view, merged))
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


def test_a_view_and_a_whole_network_are_extended_side_by_side(base: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself would take blocks of its own size: one keeps copies of its contexts, the other does not."""
    monkeypatch.setattr("candling.access.extend.VALUES", 14_000)
    view = lowrank.adapted(base, state(base, 1))
    tails = torch.arange(languages.VOCABULARY)[:, None]
    alone = [list(extend(each, IDS, tails)) for each in (base, view)]
    assert len(alone[0]) != len(alone[1])
    both = list(extend_both((base, view), IDS, tails))
    for i, parts in enumerate(alone):
        found = torch.cat([each[i].logits for each in both], 1)
        torch.testing.assert_close(found, torch.cat([part.logits for part in parts], 1), atol=1e-5, rtol=0)


def test_views_disturb_neither_each_other_nor_their_base(base: Decoder) -> None:
    before, alone = sha256_state(base), base(IDS)
    one, other = (lowrank.adapted(base, state(base, seed)) for seed in (1, 2))
    first, second = one(IDS), other(IDS)
    assert not torch.equal(first, second)
    site = f"{base.family.blocks}.0"
    for blocks in zip(*(extend(d, IDS, IDS[:, :1], sites=[site]) for d in (one, base, other)), strict=True):
        assert len({float(b.logits.sum()) for b in blocks}) == 3
    assert torch.equal(one(IDS), first)
    assert torch.equal(other(IDS), second)
    assert torch.equal(base(IDS), alone)
    training = lowrank.attach(base)
    optimiser = torch.optim.SGD([p for p in training.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        training.train()(IDS).logsumexp(-1).sum().backward()
        optimiser.step()
    assert not torch.equal(training.eval()(IDS), alone)
    assert torch.equal(one(IDS), first)
    assert torch.equal(base(IDS), alone)
    assert sha256_state(base) == before


def test_the_mean_is_of_the_products(base: Decoder) -> None:
    states = [state(base, seed) for seed in range(4)]
    mean = lowrank.mean_adapter(states)
    assert {v.shape[0] for n, v in mean.items() if n.endswith("A.weight")} == {4 * lowrank.RANK}
    wanted = by_hand(base, states)
    torch.testing.assert_close(lowrank.adapted(base, mean)(IDS), wanted(IDS), atol=1e-5, rtol=1e-5)
    factors = {name: torch.stack([s[name] for s in states]).mean(0) for name in mean}
    assert (lowrank.adapted(base, factors)(IDS) - wanted(IDS)).abs().max() > 1e-3


def test_a_file_comes_back_as_it_was(base: Decoder, tmp_path: Path) -> None:
    one = state(base, 3)
    save_file(one, tmp_path / "a.safetensors")
    read = read_weights(tmp_path / "a.safetensors")
    assert lowrank.is_adapter(read)
    assert not lowrank.is_adapter(base.state_dict())
    assert torch.equal(lowrank.adapted(base, read)(IDS), lowrank.adapted(base, one)(IDS))


def test_what_does_not_fit_is_refused(base: Decoder) -> None:
    one = state(base, 4)
    name = next(iter(one))
    for wrong in (
        {n: v for n, v in one.items() if n != name},
        {**one, "base_model.model.other.lora_B.weight": torch.zeros(2, 8)},
        {n: v[:, :-1] if n == name else v for n, v in one.items()},
        {n: v for n, v in one.items() if "lora_B" in n},
        {},
    ):
        with pytest.raises(InputError) as fault:
            lowrank.adapted(base, wrong)
        assert fault.value.code == "adapter"


def test_without_peft_one_clear_line(base: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: object, **more: object) -> object:
        if name.partition(".")[0] == "peft":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"pip install 'candling\[lora\]'") as fault:
        lowrank.attach(base)
    assert fault.value.code == "lora"
