"""`python -m emitterd`, and the `emitterd` command."""

import os
import sys
import traceback
from contextlib import suppress
from types import TracebackType

from emitterd.cli import command


def main() -> None:
    """Run the command line; what nobody expected ends with exit code 70."""
    sys.excepthook = _internal_error
    command(prog_name="emitterd")


def _internal_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    traceback.print_exception(kind, error, trace)
    sys.stderr.write("this is a bug in emitterd: please report the lines above\n")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.flush()
    # An excepthook cannot choose the exit code in any other way.
    os._exit(70)


if __name__ == "__main__":
    main()
