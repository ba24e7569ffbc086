"""What is shown while a run goes on."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from candling.runs.jobs import Progress as Report


class live_progress:
    """A live line for each stage: done of total and the time left."""

    def __enter__(self) -> Report:
        self.bar = Progress(
            TextColumn("{task.description:24s}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self.tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            self.bar.start()  # at the first stage: an error before it leaves the screen alone
            if stage not in self.tasks:
                kept = f" ({done} were done)" if done else ""
                self.tasks[stage] = self.bar.add_task(stage + kept, total=total)
            self.bar.update(self.tasks[stage], completed=done, total=total)

        return show

    def __exit__(self, *_: object) -> None:
        if self.tasks:
            self.bar.stop()
