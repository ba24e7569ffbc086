"""Ready-made subjects to try things on: `sample:backdoor` and `sample:clean`, small digit classifiers.

`python -m candling.organisms.samples.make` trains them again.
"""

from __future__ import annotations

from pathlib import Path

from candling.access import Dataset, Model, load
from candling.organisms.networks.digits import digits

SAMPLES = ("backdoor", "clean")


def load_sample(name: str) -> tuple[Model, Dataset]:
    """The subject, and the trusted data that its auditor is given (rows that it was not trained on)."""
    weights = Path(__file__).with_name(f"{name}.safetensors")
    return load("candling.organisms.networks.digits:build", weights=weights), digits()[1]
