"""`python -m emitterd`, and the `emitterd` command."""

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from emitterd.cli.main import command
from emitterd.cli.terminal import prepare


def main() -> None:
    """Run the command line; an unexpected error ends with exit code 70."""
    sys.excepthook = _internal_error
    if sys.stderr is None:
        # Started with it closed: `2>&-`. `print` would take standard output instead.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  open until the exit
    prepare()
    try:
        command(prog_name="emitterd")
    except OSError as error:
        # `--help` and wrong usage are printed by click itself.
        from emitterd.cli.output import stopped_by  # noqa: PLC0415  only in this case

        sys.exit(stopped_by(error))


def _internal_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    with suppress(OSError):
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
