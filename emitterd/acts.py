"""The operator's hand from the command line: through the daemon, or without one."""

import os
import threading
from pathlib import Path

from emitterd.config import load_part
from emitterd.config_layers import find
from emitterd.control import ask, user_name
from emitterd.entry import State
from emitterd.errors import JournalError, JournalLocked
from emitterd.explanation import OutsideSpool, locate
from emitterd.hand import Hand
from emitterd.instruction import Act, Instruction, Outcome
from emitterd.journal import Journal
from emitterd.records import Records
from emitterd.spool import Spool
from emitterd.tables import print_outcome
from emitterd.terminal import DONE, USAGE, WRONG, complain


def act(config: Path | None, what: Act, said: list[str], state: State | None) -> int:
    """Apply an act to paths, or to all in a state; 1 where one was refused."""
    settings = load_part(find(config, os.environ), os.environ, "journal", "spool")
    journal = settings.journal.path
    try:
        paths = _paths(journal, Spool(settings.spool.directory), said)
    except OutsideSpool as error:
        complain(str(error))
        return USAGE
    sudo_user = os.environ.get("SUDO_USER", "")
    instruction = Instruction(what, paths, state, sudo_user)
    try:
        outcome = ask(journal, instruction) or _alone(journal, instruction)
    except OSError as error:
        raise JournalError(
            f"the daemon cannot be asked: {error.strerror or error}",
            hint="run this as root or as the daemon's user",
        ) from error
    print_outcome(what, outcome)
    if outcome.trouble:
        complain(outcome.trouble)
    refused = any(one.refusal for one in outcome.deeds)
    return WRONG if refused or outcome.trouble else DONE


def _paths(journal: Path, spool: Spool, said: list[str]) -> tuple[bytes, ...]:
    with Records(journal) as records:
        return tuple(locate(spool, records, one) for one in said)


def _alone(journal: Path, instruction: Instruction) -> Outcome:
    """Write to the journal where no daemon holds it."""
    try:
        with Journal(journal) as opened:
            user = user_name(os.getuid(), instruction.sudo_user)
            hand = Hand(opened.database, threading.Event())
            return hand.obey(instruction, user, lambda _: None)
    except JournalLocked as error:
        raise JournalLocked(
            f"{error}, which takes no instructions: it is stopping, or is a `once`"
        ) from error
