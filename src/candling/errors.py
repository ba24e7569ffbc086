"""Every error that a user can cause, each with the exit code of its kind.

    CandlingError            70  (only its children are raised)
    ├── InputError            2  an input is missing, malformed or too small
    ├── UnsafeInputError      3  an input that could run code; refused before it is opened
    ├── EnvironmentFault      4  disk or memory
    ├── JobsFailed            5  some jobs failed; the others are kept
    └── Busy                 75  another process works in the run folder

The message is one line: what, where, how to mend it.
"""

from __future__ import annotations


class CandlingError(Exception):
    """A fault with a cause that the user can mend. `exit_code` is the process's, `code` a stable word."""

    exit_code = 70

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.args[0]}"


class InputError(CandlingError):
    exit_code = 2


class UnsafeInputError(CandlingError):
    exit_code = 3


class EnvironmentFault(CandlingError):
    exit_code = 4


class JobsFailed(CandlingError):
    exit_code = 5


class Busy(CandlingError):
    exit_code = 75
