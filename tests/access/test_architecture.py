"""Fresh networks: the same ones from the same seed in any process, with nothing left of the subject."""

import pickle
from pathlib import Path

import joblib
import pytest
import torch
from nets import NETWORKS, check_line, cnn, mlp
from torch import nn

from candling.access import Architecture, Model, fill, forward, load, sha256_state, write_weights
from candling.errors import CandlingError, InputError

NET = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from layers_beside_net import WIDTH

torch.manual_seed(1)  # what a file draws while it is read must not matter
torch.rand(3)

@dataclass
class Config:
    width: int = WIDTH

class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, Config().width)
        self.drop = nn.Dropout()
        self.out = nn.Linear(Config().width, 3)

    def forward(self, x):
        return self.out(self.drop(self.inner(x)).relu())

def build():
    return Net()

def broken():
    raise KeyError("no\\nsuch \\x1b[31mkey")

def leave():
    raise SystemExit(0)

def number():
    return 7

def lazy():
    return nn.LazyLinear(3)

def needs(width):
    return Net()
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "layers_beside_net.py").write_text("WIDTH = 8\n")
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


def seeded(architecture: Architecture, seed: int = 0) -> str:
    torch.manual_seed(seed)
    return sha256_state(architecture())


def logits(model: Model) -> list[list[float]]:
    return forward(model, torch.ones(2, 5)).tolist()


def refusal(make: object, *args: object) -> str:
    with pytest.raises(CandlingError) as raised:
        make(*args)  # type: ignore[operator]
    assert isinstance(raised.value, InputError)
    return check_line(raised.value)


def test_a_fresh_network_from_a_file(net: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    architecture = Architecture.from_spec(f"{net}:build")
    assert torch.equal(torch.get_rng_state(), before)
    assert architecture.name == f"{net}:build"
    assert seeded(architecture) == seeded(architecture) != seeded(architecture, 1)
    assert architecture() is not architecture()
    assert not any(part.training for part in architecture().modules())
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert len(pickle.dumps(architecture)) < 1000
    copied = tmp_path / "copy.py"
    copied.write_text(NET)
    assert Architecture.from_spec(f"{copied}:Net").sha256 == architecture.sha256


def test_a_fresh_network_from_a_module(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net.rename(net.with_name("net_of_this_test.py"))
    monkeypatch.chdir(net.parent)
    architecture = Architecture.from_spec("net_of_this_test:build")
    assert seeded(architecture) == seeded(Architecture.from_spec("net_of_this_test.py:build"))
    assert architecture.sha256 == Architecture.from_spec("net_of_this_test.py:Net").sha256
    assert seeded(Architecture.from_spec("torch.nn:Identity")) == seeded(Architecture.from_callable(nn.Identity))


def test_workers_build_the_same_networks(net: Path, tmp_path: Path) -> None:
    class Local(nn.Sequential):
        """Exists in no importable module."""

    torch.manual_seed(0)
    width = 4
    architectures = [
        Architecture.from_spec(f"{net}:build"),
        Architecture.from_module(Local(nn.Linear(5, width), nn.BatchNorm1d(width))),
        Architecture.from_callable(lambda: Local(nn.Linear(5, width))),
    ]
    weights = tmp_path / "w.safetensors"
    write_weights(weights, architectures[0]().state_dict())
    model = load(f"{net}:build", weights=weights)
    with joblib.Parallel(n_jobs=2) as workers:
        found = workers(joblib.delayed(seeded)(a, seed) for a in architectures for seed in (0, 1))
        remote = workers(joblib.delayed(logits)(model) for _ in range(2))
    assert found == [seeded(a, seed) for a in architectures for seed in (0, 1)]
    assert remote == [logits(model)] * 2


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{}", "is no build function"),
        ("{}:", "is no build function"),
        (":build", "is no build function"),
        ("", "is no build function"),
        ("org/name", "hub ids are not supported"),
        ("org/name:build", "hub ids are not supported"),
        ("https://example.org/net.py:build", "URLs"),
        ("{}:build()", "is no build function"),
        ("{}x.py:build", "no such file"),
        ("no_such_package.module:build", "ModuleNotFoundError"),
        ("{}:biuld", "it has Config, Net, build, broken, leave and 3 more"),
        ("{}:nn", "has no function nn"),
        ("nowhere\x1b[31m\n.py:build", "no such file"),
    ],
)
def test_a_spec_that_names_no_function(net: Path, spec: str, says: str) -> None:
    assert says in refusal(Architecture.from_spec, spec.replace("{}", str(net)))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"def build(:", "SyntaxError"),
        (b"import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        (b"1 / 0", "ZeroDivisionError"),
        (b"raise SystemExit", "SystemExit"),
        (b"\xff\xfe", "SyntaxError"),
        (b"def build(): ...\n\0", "SyntaxError|ValueError"),
        (b"", "it has none"),
    ],
)
def test_a_file_that_cannot_be_run(tmp_path: Path, source: bytes, says: str) -> None:
    (tmp_path / "net.py").write_bytes(source)
    line = refusal(Architecture.from_spec, f"{tmp_path}/net.py:build")
    assert any(word in line for word in says.split("|"))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("broken", r"broken raised KeyError: 'no\nsuch \x1b[31mkey'"),
        ("leave", "raised SystemExit"),
        ("number", "returned int, not a torch.nn.Module"),
        ("lazy", "without values"),
        ("needs", "TypeError"),
    ],
)
def test_a_function_that_builds_nothing(net: Path, function: str, says: str) -> None:
    assert says in refusal(Architecture.from_spec(f"{net}:{function}"))


def test_a_file_that_changes_is_refused(net: Path) -> None:
    architecture = Architecture.from_spec(f"{net}:build")
    net.write_text(NET + "\n")
    assert "changed since" in refusal(architecture)
    net.unlink()
    assert "no such file" in refusal(architecture)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_a_network_in_memory_survives_in_its_architecture(name: str) -> None:
    torch.manual_seed(5)
    module, other = NETWORKS[name]().requires_grad_(False), NETWORKS[name]()
    before = sha256_state(module)
    torch.manual_seed(3)
    architecture = Architecture.from_module(module)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert sha256_state(module) == before
    assert seeded(architecture) == seeded(Architecture.from_module(other)) != seeded(architecture, 1)
    assert architecture.sha256 == Architecture.from_module(other).sha256
    hidden = vars(architecture.build)["empty"]
    assert all(bool(tensor.isnan().all()) for tensor in hidden.parameters())
    fresh = architecture()
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    fill(fresh, module.state_dict())


def test_a_reset_draws_from_the_distribution_that_a_constructor_draws_from() -> None:
    def spread(build: object) -> list[float]:
        drawn = [torch.cat([p.reshape(-1) for p in build().parameters()]) for _ in range(300)]  # type: ignore[operator]
        return torch.stack(drawn).std(0).sort().values

    for build in (mlp, cnn, NETWORKS["attention"]):
        assert torch.allclose(spread(build), spread(Architecture.from_module(build())), atol=0.08)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(2))


class HalfReset(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Failing(nn.Linear):
    def reset_parameters(self) -> None:
        if hasattr(self, "ready"):
            raise RuntimeError("not again")
        super().reset_parameters()
        self.ready = True


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (Scaled(), "0.scale"),
        (Table(), "0.table"),
        (nn.ParameterList([torch.ones(2)]), "0.0"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "0.parametrizations.weight.original0"),
        (HalfReset(2, 2), "0.bias"),
    ],
)
def test_a_part_that_cannot_be_reset_asks_for_a_build_function(part: nn.Module, name: str) -> None:
    line = refusal(Architecture.from_module, nn.Sequential(part))
    assert f"{name} has no reset_parameters; pass build=, a function that returns a fresh network" in line


def test_a_network_that_fails_to_reset_or_copy() -> None:
    assert "RuntimeError: not again" in refusal(Architecture.from_module, Failing(2, 2))
    module = nn.Linear(2, 2)
    module.kept = module.weight * 2  # torch cannot copy a tensor inside a graph
    assert "copying the network raised RuntimeError" in refusal(Architecture.from_module, module)


def test_a_function_in_memory() -> None:
    architecture = Architecture.from_callable(mlp)
    assert architecture.name == "mlp"
    assert seeded(architecture) == seeded(Architecture.from_callable(lambda: mlp()))
    assert architecture.sha256 == Architecture.from_module(mlp()).sha256
    assert architecture.sha256 != Architecture.from_callable(cnn).sha256
    assert "returned int" in refusal(Architecture.from_callable, lambda: 1)
    assert "ZeroDivisionError" in refusal(Architecture.from_callable, lambda: 1 // 0)
