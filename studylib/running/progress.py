"""How far a notebook has come, for a terminal or a log."""

import time
from typing import Any, TextIO

from tqdm import tqdm


class Progress:
    """Counts the code cells begun: a bar on a terminal, one line per cell in a log, or nothing."""

    def __init__(self, label: str, total: int, stream: TextIO | None) -> None:
        self.label, self.total, self.stream = label, total, stream
        self.begun, self.start = 0, time.monotonic()
        on_terminal = stream is not None and stream.isatty()
        self.bar = (
            tqdm(total=total, desc=label, unit="cell", file=stream, leave=False) if on_terminal else None
        )

    def cell(self, cell: Any, **_: Any) -> None:
        """Count one more cell as begun, unless it holds no code."""
        if cell.cell_type != "code" or not cell.source.strip():
            return
        self.begun += 1
        if self.bar is not None:
            self.bar.update(1)
        elif self.stream is not None:
            seconds = time.monotonic() - self.start
            print(
                f"{self.label}: cell {self.begun} of {self.total}, {seconds:.1f} s",
                file=self.stream,
                flush=True,
            )

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
