"""The commands, put together: one clear line for an error, and the exit code of its kind."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from candling.commands.audit import audit
from candling.commands.convert import convert
from candling.commands.explain import explain
from candling.commands.grade import grade
from candling.commands.replay import replay
from candling.commands.report import report
from candling.commands.solve import solve
from candling.errors import CandlingError
from candling.report import terminal_safe

INTERRUPTED, INTERNAL = 130, 70
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hold a trained network up to the light before it is released.",
)
_debug = False


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


for _command in (audit, explain, solve, grade, replay, report, convert):
    app.command()(_command)


def main() -> None:
    """The entry point: one clear line for an error, and the exit code of its kind."""
    before = signal.signal(signal.SIGINT, _interrupted)
    try:
        status = _guarded(lambda: app(standalone_mode=False))
    finally:
        signal.signal(signal.SIGINT, before)
    sys.exit(status)


def _interrupted(*_: object) -> None:
    """The first time stops in order; the second at once, in the middle of whatever is being tidied up."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    raise KeyboardInterrupt


class _Notes(logging.Handler):
    """What a run has to say beside its result: one line each, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(terminal_safe(f"note: {record.getMessage()}"), file=sys.stderr)


def _guarded(command: Callable[[], Any]) -> int:
    notes, log = _Notes(), logging.getLogger("candling")
    log.addHandler(notes)
    try:
        return _status(command)
    finally:
        log.removeHandler(notes)


def _status(command: Callable[[], Any]) -> int:
    try:
        result = command()
    except CandlingError as fault:
        _complain(str(fault))
        return fault.exit_code
    except TyperException as fault:
        message = getattr(fault, "message", None) or str(fault)
        _complain(f"error[usage]: {message} See candling --help.")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except MemoryError:
        _complain("error[memory]: out of memory; give a smaller --batch, or fewer --workers")
        return 4
    except OSError as fault:
        if fault.errno not in _FULL:
            return _internal(fault)
        _complain(f"error[write]: {fault.strerror}; free space and run the same command again")
        return 4
    except Exception as fault:
        return _internal(fault)
    if result == INTERRUPTED:  # typer hands an interruption on as a status
        _complain("error[interrupted]: stopped; what was done is kept, and the same command goes on from there")
    return result if isinstance(result, int) else 0


def _internal(fault: Exception) -> int:
    _complain(f"error[internal]: {type(fault).__name__}: {fault}; --debug shows where")
    return INTERNAL


def _complain(line: str) -> None:
    if _debug:
        traceback.print_exc()
    safe = terminal_safe(line)
    print(safe if len(safe) <= 200 else safe[:199] + "…", file=sys.stderr)


if __name__ == "__main__":
    main()
