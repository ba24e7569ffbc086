"""Networks that compute no program, and problems written to files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from candling.access import Architecture, fill, read_weights
from candling.access.npz import read_arrays
from candling.organisms.programs import Problem, admission, answers, pose
from candling.organisms.programs.decoys import DECOYS, coin, collapsed, memorised, untrained
from candling.organisms.programs.export import export
from candling.organisms.programs.problem import Inputs
from candling.workflows.solve_inputs import open_problem

ONE_A_FAMILY = pytest.mark.parametrize("kind", ["dot", "residue table", "count difference"])


@ONE_A_FAMILY
def test_memorised_labels_are_known_by_heart_and_no_further(kind: str):
    decoy = memorised(pose(kind, 81))
    found = admission(decoy.problem, decoy.network)
    assert found.training >= 0.99
    assert 0.4 <= found.test <= 0.6
    assert found.majority <= 0.65
    assert not found.admitted


@ONE_A_FAMILY
def test_a_collapsed_network_has_one_answer(kind: str):
    decoy = collapsed(pose(kind, 82))
    assert len(answers(decoy.network, decoy.problem.everything()).unique()) == 1
    assert not admission(decoy.problem, decoy.network).admitted


@ONE_A_FAMILY
def test_an_untrained_network_is_as_it_was_drawn(kind: str):
    problem = pose(kind, 83)
    first, again = untrained(problem), untrained(problem)
    x = problem.test.x[:50]
    assert torch.equal(first.network(x), again.network(x))
    assert not admission(problem, first.network).admitted


def test_every_sort_says_its_name():
    assert list(DECOYS) == ["memorised", "collapsed", "untrained"]


@ONE_A_FAMILY
def test_a_coin_depends_on_the_input_and_the_seed_alone(kind: str):
    """The same input has the same label wherever it stands; half of the labels change with the seed, or with
    one cell of the input."""
    inputs = pose(kind, 84).unlabelled
    labels = coin(inputs, seed=1, classes=2)
    back = torch.arange(len(inputs)).flip(0)
    assert torch.equal(coin(inputs.take(back), seed=1, classes=2), labels[back])
    changed = inputs.x.clone().flatten(1)
    changed[:, -1] += 1
    for other in (
        coin(inputs, seed=2, classes=2),
        coin(Inputs(changed.reshape(inputs.x.shape)), seed=1, classes=2),
    ):
        assert abs(float((labels == other).float().mean()) - 0.5) < 0.1
    assert abs(float(labels.float().mean()) - 0.5) < 0.1


def loaded(folder: Path) -> torch.nn.Module:
    network = Architecture.from_spec(f"{folder}/net.py:build")()
    fill(network, read_weights(folder / "model.safetensors"))
    return network


@ONE_A_FAMILY
def test_an_exported_problem_is_the_same_network_inputs_and_truth(kind: str, tmp_path: Path):
    problem = pose(kind, 85)
    decoy = untrained(problem)
    export(problem, decoy.network, tmp_path)
    x = read_arrays(tmp_path / "data.npz", ("x",))["x"]
    assert np.load(tmp_path / "data.npz").files == ["x"]
    assert np.array_equal(x, problem.unlabelled.x.numpy())
    assert torch.equal(loaded(tmp_path)(torch.from_numpy(x)), decoy.network(problem.unlabelled.x))
    truth = np.load(tmp_path / "truth.npz")
    for name, part in (("training", problem.training), ("test", problem.test)):
        given = Inputs(torch.from_numpy(truth[f"x_{name}"]))
        assert torch.equal(given.x, part.x)
        assert np.array_equal(problem.truth(given).numpy(), truth[f"y_{name}"])
    assert np.array_equal(problem.truth(problem.unlabelled).numpy(), truth["y"])


def test_what_is_exported_for_the_solver_does_not_name_the_program(tmp_path: Path):
    problem: Problem = replace(pose("residue table", 86), says="a secret")
    export(problem, untrained(problem).network, tmp_path)
    for name in ("net.py", "data.npz", "model.safetensors"):
        content = (tmp_path / name).read_bytes()
        assert b"secret" not in content
        assert b"residue" not in content
    assert not (tmp_path / "concepts.npz").exists()


def test_images_come_with_their_digits(tmp_path: Path):
    problem = pose("digits", 87)
    export(problem, untrained(problem).network, tmp_path)
    assert problem.unlabelled.digit is not None
    assert np.array_equal(np.load(tmp_path / "concepts.npz")["digit"], problem.unlabelled.digit.numpy())
    truth = np.load(tmp_path / "truth.npz")
    assert len(truth["digit_training"]) == len(problem.training)


@pytest.mark.parametrize("kind", ["linear band", "count difference"])
def test_the_command_opens_what_is_exported(kind: str, tmp_path: Path):
    problem = pose(kind, 88)
    export(problem, untrained(problem).network, tmp_path)
    net, weights, data, truth = (
        str(tmp_path / name) for name in ("net.py:build", "model.safetensors", "data.npz", "truth.npz")
    )
    opened = open_problem(net, weights, data, truth)
    assert torch.equal(opened.data.x, problem.unlabelled.x)
    assert opened.truth is not None
    assert opened.truth.tolist() == problem.truth(problem.unlabelled).tolist()
    assert opened.truth_trained_on is not None
    assert opened.truth_trained_on.tolist() == problem.truth(problem.training).tolist()
