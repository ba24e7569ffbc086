"""What sensors say, checked once when it comes in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from candling.access.npz import Array
from candling.access.wording import bad_input


def readings(values: Array, where: str) -> Tensor:
    """bool [n, sensors] of whole numbers or truth values.

    Raises InputError for fewer than two sensors, other values than 0 and 1 (naming the first offending row), and
    where no row has a yes of all sensors, or none a no of all: one side says nothing of what is to be told apart.
    """
    if values.shape[1] < 2:
        raise bad_input(
            "data",
            f"{where}y is {list(values.shape)}: {values.shape[1]} sensor cannot be contradicted by another; give at "
            "least two, or y as [n] for classes",
        )
    odd = np.flatnonzero(((values != 0) & (values != 1)).any(1))
    if len(odd):
        row = int(odd[0])
        what = f"a sensor says {values[row][(values[row] != 0) & (values[row] != 1)][0]} in row {row}"
        raise bad_input("data", f"{where}{what} ({len(odd):,} such): y of sensors holds 0 (no) and 1 (yes)")
    sensors = torch.from_numpy(np.array(values, dtype=np.bool_))
    for answer, rows in (("yes", sensors.all(1)), ("no", ~sensors.any(1))):
        if not rows.any():
            raise bad_input(
                "data", f"{where}all {sensors.shape[1]} sensors say {answer} in none of {len(rows):,} rows"
            )
    return sensors
