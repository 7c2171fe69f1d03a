"""Progress on stderr: bars in a terminal; elsewhere (a log file, CI, nohup) a plain line now and then."""

import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, TaskID
from rich.text import Text

FIRST, PERIOD = 2.0, 10.0  # s until the first plain line, and between two


class Bars(Progress):
    """rich's Progress; its columns' words make up the plain line."""

    def __init__(
        self, *columns: ProgressColumn, console: Console, disable: bool = False, transient: bool = False
    ) -> None:
        self.plain = not (console.is_terminal or console.quiet or disable)
        self.due = time.monotonic() + FIRST
        super().__init__(*columns, console=console, transient=transient, disable=disable or console.quiet or self.plain)

    def update(self, task_id: TaskID, **changed: Any) -> None:
        super().update(task_id, **changed)
        self.tell(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self.tell(task_id)

    def tell(self, task_id: TaskID) -> None:
        if not self.plain or time.monotonic() < self.due:
            return
        self.due = time.monotonic() + PERIOD
        words = [column(self._tasks[task_id]) for column in self.columns if isinstance(column, ProgressColumn)]
        line = "  ".join(word.plain for word in words if isinstance(word, Text) and word.plain.strip())
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
