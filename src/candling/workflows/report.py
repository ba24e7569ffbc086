"""Report: draw a run's page again, from its record alone."""

from __future__ import annotations

from pathlib import Path

from candling.errors import InputError
from candling.report import draw
from candling.runs.files import write_whole
from candling.runs.record import RunRecord
from candling.workflows.explain_record import ExplanationRecord, is_explanation
from candling.workflows.solve_record import SolutionRecord, is_solution


def write_report(folder: Path, *, only: str | None = None) -> Path:
    """Write `report.html` (with `only`: `report-CLASS.html`, the other classes sealed by hash); its path.

    Raises InputError on a damaged record or a problem class that the run does not have, EnvironmentFault
    when the page cannot be written.
    """
    if is_explanation(folder):
        if only is not None:
            raise InputError("usage", "an explanation has no problem classes: leave --only out")
        path = folder / "report.html"
        write_whole(path, ExplanationRecord.read(folder).page().encode())
        return path
    if is_solution(folder):
        if only is not None:
            raise InputError("usage", "a solution has no problem classes: leave --only out")
        path = folder / "report.html"
        write_whole(path, SolutionRecord.read(folder).page().encode())
        return path
    record = RunRecord.read(folder)
    page = draw(record.verdicts, record.networks, record.arrays, record.info, only=only)
    path = folder / (f"report-{only}.html" if only else "report.html")
    write_whole(path, page.encode())
    return path
