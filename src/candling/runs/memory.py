"""Steps of one process, each recorded as soon as it is done, so that the same command goes on from there.

What `jobs` is for many independent jobs, for work in which each step depends on the one before: everything cheap is
done again, in the same order, and what was expensive is read from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from candling._version import VERSION
from candling.errors import InputError
from candling.runs.codec import Undecodable, classes_in, decode, encode
from candling.runs.fingerprint import fingerprint
from candling.runs.jobs import Progress, silent
from candling.runs.ledger import Ledger

R = TypeVar("R")


class Memory:
    """Remembers steps in a ledger, which belongs to one run's inputs; without one it remembers nothing."""

    def __init__(self, ledger: Ledger | None = None, tell: Progress = silent) -> None:
        self._ledger, self._count = ledger, 0
        self.tell = tell
        """To be called by whoever takes steps, with (stage, done, total)."""

    def __call__(self, step: str, given: object, kind: type[R], function: Callable[[], R]) -> R:
        """What the function returns, of this kind: a plain tensor, or a frozen dataclass of such.

        given: all that decides it beside the step's name and the run's inputs. Raises InputError for a record that
        cannot be read, EnvironmentFault, and whatever the function raises.
        """
        if self._ledger is None:
            return function()
        classes = classes_in(kind)
        key = fingerprint(("step", VERSION, str(torch.__version__), step, given))
        self._count += 1
        payload = self._ledger.get(key)
        if payload is None:
            value = function()
            self._ledger.done(key, step, self._count - 1, encode(value, classes))
            return value
        try:
            found = decode(payload, classes)
        except Undecodable as fault:
            raise InputError("record", f"the record of {step} cannot be read: {fault}") from fault
        if not isinstance(found, kind):
            raise InputError("record", f"the record of {step} holds {type(found).__name__}; give a new --out")
        return found


FORGETFUL = Memory()
"""For work that nobody keeps."""
