"""Settings for all tests."""

import torch
from hypothesis import settings

settings.register_profile("candling", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("candling")

torch.set_num_threads(1)  # the networks are small, and other tests run beside this one
