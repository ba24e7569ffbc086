"""Loading: from a spec with weights, or from memory; the user's network is never touched."""

from pathlib import Path

import pytest
import torch
from nets import NETWORKS, check_line, cnn, mlp, unchanged

from candling.access import forward, load, read_weights, sha256_state, write_weights
from candling.errors import InputError

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_memory_is_copied(name: str) -> None:
    module = NETWORKS[name]().train()
    with unchanged(module):
        model = load(module)
        assert model.sha256 == sha256_state(module) == sha256_state(model.module)
    assert not any(part.training for part in model.module.modules())
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    before = forward(model, X)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(forward(model, X), before)


def test_a_spec_with_weights_is_the_network_in_memory(tmp_path: Path) -> None:
    module = mlp().eval()
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))\n"
    )
    write_weights(tmp_path / "w.safetensors", module.state_dict())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = load(f"{tmp_path}/net.py:build", weights=tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert model.sha256 == load(module).sha256
    assert torch.equal(forward(model, X), forward(module, X))
    assert load(mlp(), weights=tmp_path / "w.safetensors").sha256 == model.sha256
    assert read_weights(tmp_path / "w.safetensors").keys() == module.state_dict().keys()


def test_a_build_function_must_fit(tmp_path: Path) -> None:
    assert load(mlp(), build=mlp).architecture.name == "mlp"
    for act, says in [
        (lambda: load(mlp(), build=cnn), "another network"),
        (lambda: load(f"{__file__}:build"), "needs weights"),
        (lambda: load(f"{__file__}:build", weights=__file__, build=mlp), "build= goes with"),
        (lambda: load(mlp(), weights=tmp_path / "none"), "no such file"),
    ]:
        with pytest.raises(InputError, match=says) as raised:
            act()
        check_line(raised.value)


def test_weights_in_memory_must_be_numbers() -> None:
    module = mlp()
    with torch.no_grad():
        module[0].weight[0, :2] = torch.nan
    with pytest.raises(InputError, match=r"0\.weight has 2 NaN or Inf of 40"):
        load(module)


@pytest.mark.parametrize("batch", [1, 3, 512])
def test_batches_do_not_matter(batch: int) -> None:
    module = cnn()
    with unchanged(module):
        got = forward(module, X, batch=batch)
    assert torch.allclose(got, forward(module, X), atol=1e-6)
    assert got.shape == (7, 3)
    assert not got.requires_grad
    assert forward(module, X[:0]).shape == (0, 3)
