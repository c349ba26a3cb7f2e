"""A process that takes JSON orders, one a line, and answers each with a line."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self


class Handle:
    """The other end of its lines; a context manager, at whose end the process ends."""

    def __init__(self, command: Sequence[str | os.PathLike[str]]) -> None:
        """Start Python with these arguments; it can import what this process can."""
        self._process = subprocess.Popen(  # noqa: S603  our own command line
            [sys.executable, *command],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The process ends when its standard input ends.
        self._process.communicate()

    def ask(self, order: dict[str, object]) -> dict[str, Any]:
        """Give an order; return the answer."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the far side's lines are not open")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the far side ended")
        answer: dict[str, Any] = json.loads(line)
        return answer
