"""What an audit of networks that foretell sensors refuses, in one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import candling
from candling.errors import InputError
from candling.workflows.case import make_case
from tampered import cases


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"untrusted": torch.zeros(3, 6)}, "are not grouped"),
        ({"legitimate": torch.ones(6)}, "are not grouped"),
    ],
)
def test_what_such_networks_do_not_take_is_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        make_case(build(), cases(60), **arguments)


def test_other_classes_are_not_theirs():
    with pytest.raises(InputError, match=r"no problem class 'backdoor' for a network that foretells.*from tampering"):
        candling.audit(build(), cases(60), controls=3)
