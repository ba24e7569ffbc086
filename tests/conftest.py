"""Settings for all tests."""

import torch
from hypothesis import settings

# The same examples at every run, so that a failure is the change's; `make fuzz` draws new ones.
# How long an example takes depends on the machine.
settings.register_profile("candling", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=1000)
settings.load_profile("candling")

torch.set_num_threads(1)  # the networks are small, and other tests run beside this one
