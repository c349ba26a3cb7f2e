"""The help on error codes: what emitterd does, and what the operator must do.

`emitterd explain-error` prints the help, and tools/error_codes.py writes it to docs/errors.md. All
texts come from error_codes.yaml.
"""

from dataclasses import asdict, dataclass

import click

from emitterd.cli.output import DONE, console, print_array, print_object
from emitterd.cli.tables import print_pairs
from emitterd.cli.terminal import wrapped
from emitterd.codes import Code, load_texts
from emitterd.datasets.findings import LOSSES, consequence
from emitterd.text import printable

_WIDTH = 80


@dataclass(frozen=True, slots=True)
class CodeHelp:
    """One error code with its help.

    `meanwhile`: what emitterd does without the operator. `consequence`: for a finding, what the
    server would do with the file.
    """

    code: Code
    title: str
    remedy: str
    meanwhile: str
    consequence: str | None
    steps: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """Return the help as `explain-error --json` prints it."""
        return {name: text for name, text in asdict(self).items() if text is not None}

    def text(self) -> str:
        """Return the help for a terminal of 80 columns; no command is broken."""
        paragraphs = [f"Meanwhile: {self.meanwhile}"]
        if self.consequence is not None:
            paragraphs.append(f"If it is sent: {self.consequence}.")
        paragraphs.append(f"What to do: {self.remedy}.")
        lines = [f"{self.code}: {self.title}"]
        for paragraph in paragraphs:
            lines += ["", *wrapped(paragraph, _WIDTH)]
        for number, step in enumerate(self.steps, 1):
            lines += wrapped(f"  {number}. {step}", _WIDTH, indent=5)
        return "\n".join(lines)


def explain(code: str) -> CodeHelp:
    """Return the help on a code, written like `E210`, `e210` or `210`.

    Raises `click.BadParameter` if there is no such code.
    """
    try:
        known = Code(f"E{code.strip().upper().removeprefix('E')}")
    except ValueError:
        raise click.BadParameter(
            f"there is no error code '{printable(code.strip())}':"
            " `emitterd explain-error` without a code lists all"
        ) from None
    texts = load_texts()
    page = texts["codes"][known]
    outcome = texts["outcomes"][page["outcome"]] if "outcome" in page else ""
    return CodeHelp(
        known,
        known.title,
        known.remedy,
        f"{outcome} {page.get('meanwhile', '')}".strip(),
        consequence(known, LOSSES[known]) if known in LOSSES else None,
        tuple(page["steps"]),
    )


def all_codes() -> list[CodeHelp]:
    """Return the help on every code, in order."""
    return [explain(code) for code in Code]


def explain_error(code: str | None, *, as_json: bool) -> int:
    """Print what an error code means, or all codes; return the exit code."""
    if code is None:
        helps = all_codes()
        if as_json:
            print_array(code_help.record() for code_help in helps)
        else:
            print_pairs((code_help.code, code_help.title) for code_help in helps)
        return DONE
    code_help = explain(code)
    if as_json:
        print_object(code_help.record())
    else:
        console().print(code_help.text(), markup=False, soft_wrap=True)
    return DONE
