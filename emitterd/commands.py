"""What the commands of an installation do: `run`, `once`, `check`, `init`, `demo`.

Functions return the exit code.
"""

import os
import sys
from functools import partial
from pathlib import Path

from emitterd.catalogue_file import load_catalogue
from emitterd.client_config import read_client_config
from emitterd.config import Config, describe, load
from emitterd.config_layers import find
from emitterd.config_values import shown
from emitterd.daemon import Daemon
from emitterd.demo import Demo, workplace
from emitterd.inspector import load_inspector
from emitterd.logs import configure, silence
from emitterd.machine import diagnoses
from emitterd.online import online as ask_online
from emitterd.playbook import UnknownCodeError, all_codes, explain
from emitterd.skeleton import lay_out
from emitterd.tables import (
    Bars,
    console,
    print_codes,
    print_diagnoses,
    print_receipts,
    print_settings,
    print_undelivered,
)
from emitterd.terminal import (
    CONFIGURATION,
    DONE,
    USAGE,
    WRONG,
    complain,
    print_array,
    print_object,
)


def run(config: Path | None) -> int:
    """Watch and deliver until a signal."""
    settings = _load(config)
    return _configure_log(settings) or Daemon(settings).run()


def once(config: Path | None, wait_s: float) -> int:
    """Deliver what is complete now."""
    settings = _load(config)
    people = sys.stdout.isatty() and sys.stderr.isatty()
    # Bars and lines of single files would spoil each other.
    if code := _configure_log(settings, quiet=people):
        return code
    if people:
        with Bars() as bars:
            code, left = Daemon(settings, bars).once(wait_s)
    else:
        code, left = Daemon(settings).once(wait_s)
    if left:
        print_undelivered(left)
    return code


def check(config: Path | None, *, online: bool) -> int:
    """Check the configuration, the machine, and with `online` the server."""
    settings = _load(config)
    load_inspector(settings.spool)
    print_settings(describe(settings))
    found = diagnoses(settings)
    print_diagnoses(found)
    if online:
        # The login's own lines would come between the answers.
        silence()
        for one in ask_online(settings):
            print_diagnoses([one])
            found.append(one)
    wrong = any(one.level == "error" for one in found)
    return WRONG if wrong else DONE


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


def demo(keep: Path | None) -> int:
    """Go the whole way in a folder of its own."""
    try:
        with workplace(keep) as folder:
            receipts = Demo(folder).run(console().print)
    except (TimeoutError, FileExistsError) as error:
        complain(str(error))
        return WRONG
    print_receipts(receipts)
    console().print(f"{len(receipts)} files delivered, each whole and once")
    return DONE


def _load(path: Path | None) -> Config:
    return load(find(path, os.environ), os.environ)


def _configure_log(settings: Config, *, quiet: bool = False) -> int:
    """Open the log; return an exit code where that fails, else 0."""
    level = settings.log.level
    if quiet and settings.log.file is None and level in {"debug", "info"}:
        level = "warning"
    try:
        configure(level, settings.log.file)
    except OSError as error:
        complain(f"cannot open {settings.log.file}: {error.strerror}")
        return CONFIGURATION
    return DONE
