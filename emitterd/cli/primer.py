"""For who is new to it: `init` lays out an installation, `explain-error` tells a code.

Functions return the exit code.
"""

from functools import partial
from pathlib import Path

from emitterd.cli.error_codes import UnknownCodeError, all_codes, explain
from emitterd.cli.init import lay_out
from emitterd.cli.output import console, print_codes
from emitterd.cli.terminal import DONE, USAGE, complain, print_array, print_object
from emitterd.config.client_config import read_client_config
from emitterd.config.fields import shown
from emitterd.datasets.catalogue_file import load_catalogue


def init(directory: Path, output: Path, from_client: Path | None) -> int:
    """Lay out folder and configuration; says what it made and what is left to do."""
    client = read_client_config(from_client) if from_client else None
    datasets = load_catalogue().datasets
    folders = list(dict.fromkeys(dataset.folder for dataset in datasets))
    laid_out = lay_out(directory, output, folders, client)
    say = partial(console().print, markup=False, soft_wrap=True)
    for path in laid_out.made:
        say(f"made {shown(path)}")
    for notice in laid_out.notices:
        say(f"note: {notice}")
    say("next:")
    for number, step in enumerate(laid_out.next_steps, 1):
        say(f"  {number}. {step}")
    return DONE


def explain_error(code: str | None, *, as_json: bool) -> int:
    """Say what an error code means, or list all codes."""
    if code is None:
        plays = all_codes()
        if as_json:
            print_array(play.record() for play in plays)
        else:
            print_codes((play.code, play.title) for play in plays)
        return DONE
    try:
        play = explain(code)
    except UnknownCodeError as error:
        complain(str(error))
        return USAGE
    if as_json:
        print_object(play.record())
    else:
        console().print(play.text(), markup=False, soft_wrap=True)
    return DONE
