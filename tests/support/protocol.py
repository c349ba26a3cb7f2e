"""The protocol of several hosts as a small machine, whose every state can be visited.

Read it as the description of the protocol. `Rules` names its rules. `_Steps` has each step that a
host, the network, the server or time can take next. `search` tries all of them in every order, and
looks for a step that must never happen (`Broken`), and for a state that nobody gets out of.

Nothing is timed. What may come late comes at any later step: a host that is stopped for an hour, or
that loses its network, takes no step while the others do. Two orders are left of time. A lease ends
at last if its host does not renew it. And nothing that was sent under a lease is still on its way
when the grace after it is over.

The words:

- A *host* is a machine. A *life* is one run of its process, or what the process begins when it
  learns that it was fenced. A life has a lease, and never comes back once its row is ended.
- A *claim* is a row of a file that names a life. The row's token tells one claim from the next.
  Here a life has at most one claim, so its token is right for just as long as the row names it.
- An *attempt* is what a life knows and does. It may be late: its claim may have been taken back.

The server may process an object and take it out of the bucket as soon as it is stored. So an object
that is stored again counts as one that came back.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the protocol. The tests break one at a time."""

    token: bool = True
    """A write counts only while the row has the token of its claim."""
    boundary: bool = True
    """The end of a body is sent only while a lease holds."""
    boundary_of_life: bool = True
    """That lease is the one of the life whose claim it is, not that of the host's present life."""
    pinning: bool = True
    """A grant is in the journal before the first byte of a body is sent."""
    any_ended: bool = True
    """A rescue takes back what any ended life holds, not only what the lives hold that it ends."""
    grace: bool = True
    """A rescue waits until the grace of a lease is over, so that no end of a body is on its way."""
    restart_waits: bool = True
    """A new life ends the one before, but leaves its claim to a rescue after the grace."""
    unique_key: bool = True
    """No two versions of a path may pin one key."""


HELD, OVER, LATE = "held", "over", "late"
"""A lease: it holds; it has ended; its grace is over too."""

QUEUED, CLAIMED, DELIVERED = "queued", "claimed", "delivered"
"""The states of a file that matter here. `claimed` is the journal's `delivering`."""

WAITING = "waiting"
"""This life has not begun."""
IDLE = "idle"
CLAIMING = "claiming"
"""The claim was sent: the database may commit it at any time."""
READY = "ready"
"""The life knows its claim."""
GRANTED = "granted"
"""It has a grant that is not in the journal."""
BODY = "body"
"""The body is under way, without its end."""
END = "end"
"""The end is on its way."""
ORPHAN = "orphan"
"""The process is dead. The end of the body, which it had sent, is on its way."""
STORED = "stored"
"""The answer is there: the object is stored."""
LOST = "lost"
"""No answer came: the object may be stored."""
FAILED = "failed"
"""The body was not finished: no object is stored."""
DEAD = "dead"

NOT_RUNNING = frozenset({WAITING, ORPHAN, DEAD})
ON_ITS_WAY = frozenset({END, ORPHAN})


class Life(NamedTuple):
    """One life of a host: its row in the journal, and what its process does."""

    phase: str = IDLE
    lease: str = HELD
    ended: bool = False
    """Whether the row is ended. The process learns it with its next heartbeat."""
    claim: int | None = None
    """The file whose row names this life."""
    file: int | None = None
    """The file of the attempt."""
    key: int | None = None
    """The key that the attempt uses."""


class File(NamedTuple):
    """The row of a file."""

    state: str = QUEUED
    key: int | None = None
    """The key of the pinned grant."""
    expired: bool = False
    """Whether that grant has ended."""
    ambiguous: bool = False
    earlier_keys: tuple[int, ...] = ()


class World(NamedTuple):
    """Everything: the lives, the files of the journal, and the bucket."""

    lives: tuple[Life, ...]
    files: tuple[File, ...]
    bucket: tuple[tuple[int, int], ...] = ()
    """Key and file of each object that was ever stored."""


class Broken(Exception):
    """A step that must never happen. `kind` is one of these; the message is the step in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


FENCED_WRITE = "a write of a fenced host counts"
CAME_BACK = "an object comes back that the server may have taken out"
TWO_OBJECTS = "one version has two objects, and the journal does not say so"
OVERWRITTEN = "one version overwrites the object of another"
NOT_STORED = "a file is delivered without an object"
STUCK = "a host is alive, and a file is never delivered"


class Step(NamedTuple):
    """A step: who takes it, in words, and the world after it."""

    actor: str
    """The letter of a host, `TIME`, or `FAULT` for what need not happen."""
    text: str
    after: World


TIME, FAULT = "time", "fault"


class _Steps:
    """The steps that can be next in a world."""

    def __init__(self, hosts: str, rules: Rules, world: World, *, one_path: bool) -> None:
        self.hosts = hosts
        self.rules = rules
        self.world = world
        self.one_path = one_path

    def all(self) -> Iterator[Step]:
        """Yield each step. Raises `Broken` at one that must not happen."""
        for number, life in enumerate(self.world.lives):
            if life.phase == WAITING:
                yield from self._begin_life(number)
                continue
            yield from self._lease(number, life)
            if life.phase in ON_ITS_WAY:
                yield self._lose(number, life)
                yield self._store(number, life)
            if life.phase not in NOT_RUNNING:
                yield from self._rescue(number, life)
                yield from self._attempt(number, life)
                yield from self._kill(number, life)
        for place, file in enumerate(self.world.files):
            # One end of a grant for each file: more would only repeat the same.
            pinned = file.key is not None and not file.expired and not file.earlier_keys
            if pinned and file.state != DELIVERED:
                ended = self._with_file(place, expired=True)
                yield Step(FAULT, f"the grant of {_name(place)} ends", ended)

    # The lives of a host.

    def _begin_life(self, number: int) -> Iterator[Step]:
        """Start a process again, or a new life once it learns that it was fenced."""
        former = self.world.lives[number - 1]
        if former.phase not in {DEAD, ORPHAN} and not former.ended:
            return
        world = self.world
        if not self.rules.restart_waits and former.claim is not None:
            world = _with_file(world, former.claim, **_taken_back(world, former.claim))
            former = former._replace(claim=None)
        world = _with_life(world, number - 1, former._replace(ended=True))
        text = f"{self._who(number)} begins, and ends the life before"
        yield Step(self.hosts[number], text, _with_life(world, number, Life()))

    def _kill(self, number: int, life: Life) -> Iterator[Step]:
        """Kill a process that can start again. Another one that dies just takes no more steps."""
        if self.hosts[number + 1 : number + 2] == self.hosts[number]:
            phase = ORPHAN if life.phase == END else DEAD
            yield self._step(FAULT, number, "is killed", life, phase=phase)

    def _lease(self, number: int, life: Life) -> Iterator[Step]:
        # What is sent before the end of a lease arrives within the grace, or never: the system of
        # the host gives it up (TCP_USER_TIMEOUT).
        under_way = life.phase in ON_ITS_WAY
        if life.lease == HELD and under_way:
            yield self._step(TIME, number, "lets its lease end", life, lease=OVER)
        elif life.lease != LATE and not under_way:
            yield self._step(TIME, number, "lets its lease and the grace end", life, lease=LATE)
        if life.lease != HELD and not life.ended and life.phase not in NOT_RUNNING:
            actor = self.hosts[number]
            yield self._step(actor, number, "sends a heartbeat", life, lease=HELD)

    def _rescue(self, number: int, rescuer: Life) -> Iterator[Step]:
        """End the lives whose lease is over, and take back what ended lives hold, as one."""
        if rescuer.lease != HELD or rescuer.ended:
            return
        world, ends, gets = self.world, [], []
        for other, life in enumerate(world.lives):
            over = life.lease == LATE or (life.lease == OVER and not self.rules.grace)
            if not over or life.phase == WAITING or (life.ended and not self.rules.any_ended):
                continue
            if not life.ended:
                ends.append(self._who(other))
            if life.claim is not None:
                gets.append(_name(life.claim))
                world = _with_file(world, life.claim, **_taken_back(world, life.claim))
            world = _with_life(world, other, life._replace(ended=True, claim=None))
        if ends or gets:
            text = f"{self._who(number)} ends {_list(ends)} and takes back {_list(gets)}"
            yield Step(self.hosts[number], text, world)

    # An attempt.

    def _attempt(self, number: int, life: Life) -> Iterator[Step]:
        match life.phase:
            case "idle":
                yield from self._send_claim(number, life)
            case "claiming":
                yield self._commit_claim(number, life)
            case "ready":
                yield from self._begin_body(number, life)
            case "granted":
                yield self._pin(number, life)
            case "body":
                yield self._finish(number, life)
            case "stored":
                yield self._step(FAULT, number, "loses the answer", life, phase=LOST)
                yield self._write(number, life, DELIVERED)
            case "lost" | "failed":
                yield self._write(number, life, QUEUED)

    def _send_claim(self, number: int, life: Life) -> Iterator[Step]:
        for place, file in enumerate(self.world.files):
            # The next version of a path is admitted when the one before is delivered.
            former = self.world.files[:place] if self.one_path else ()
            admitted = all(other.state == DELIVERED for other in former)
            if file.state == QUEUED and admitted and life.lease == HELD and not life.ended:
                text = f"sends a claim of {_name(place)}"
                actor = self.hosts[number]
                yield self._step(actor, number, text, life, phase=CLAIMING, file=place)

    def _commit_claim(self, number: int, life: Life) -> Step:
        """Commit a claim in the database, maybe long after the life was ended."""
        place, actor = _of(life), self.hosts[number]
        if self.world.files[place].state != QUEUED:
            text = f"finds that {_name(place)} is claimed"
            return self._step(actor, number, text, _idle(life))
        claimed = life._replace(phase=READY, claim=place)
        after = _with_life(self._with_file(place, state=CLAIMED), number, claimed)
        return Step(actor, f"the claim by {self._who(number)} is committed", after)

    def _begin_body(self, number: int, life: Life) -> Iterator[Step]:
        """Use the pinned grant, as the claim returned it, or ask for one."""
        actor, file = self.hosts[number], self.world.files[_of(life)]
        if file.key is not None and not file.expired and _holds(life):
            text = f"begins the body for the pinned key {file.key}"
            yield self._step(actor, number, text, life, phase=BODY, key=file.key)
            return
        for key in self._grants(_of(life)):
            text = f"gets a grant for key {key}"
            yield self._step(actor, number, text, life, phase=GRANTED, key=key)

    def _grants(self, place: int) -> Iterator[int]:
        """Yield the keys that the server may give: two grants of one second have one key."""
        used = {key for key, other in self.world.bucket if self._same_path(other, place)}
        for other, file in enumerate(self.world.files):
            if self._same_path(other, place) and file.key is not None:
                used |= {file.key, *file.earlier_keys}
                if other != place:
                    yield file.key
        for life in self.world.lives:
            if life.key is not None and self._same_path(_of(life), place):
                used.add(life.key)
        yield next(key for key in count(1) if key not in used)

    def _same_path(self, place: int, other: int) -> bool:
        return self.one_path or place == other

    def _pin(self, number: int, life: Life) -> Step:
        """Record the grant, then begin the body."""
        place, key, actor = _of(life), life.key, self.hosts[number]
        file = self.world.files[place]
        if not self.rules.pinning:
            text = f"begins the body for key {key}, which is not in the journal"
            return self._step(actor, number, text, life, phase=BODY)
        if self.rules.token and not _holds(life):
            return self._refused(number, life)
        others = [other.key for other in self.world.files if other is not file]
        if self.rules.unique_key and self.one_path and key in others:
            text = f"cannot pin key {key}: another version has it"
            return self._step(actor, number, text, life, phase=READY, key=None)
        text = f"{self._who(number)} pins key {key} and begins the body"
        if not _holds(life):
            raise Broken(FENCED_WRITE, text)
        replaced = () if file.key in {None, key} else (file.key,)
        pinned = self._with_file(
            place, key=key, expired=False, earlier_keys=(*file.earlier_keys, *replaced)
        )
        after = _with_life(pinned, number, life._replace(phase=BODY))
        return Step(actor, text, after)

    def _finish(self, number: int, life: Life) -> Step:
        """Check the lease, and send the end of the body; nothing comes between the two."""
        actor, lease = self.hosts[number], life
        if not self.rules.boundary_of_life:
            # What the host holds now.
            lease = [
                other
                for other, host in zip(self.world.lives, self.hosts, strict=True)
                if host == actor and other.phase != WAITING
            ][-1]
        if not self.rules.boundary or (lease.lease == HELD and not lease.ended):
            return self._step(actor, number, "sends the end of the body", life, phase=END)
        return self._step(actor, number, "does not send the end of the body", life, phase=FAILED)

    def _lose(self, number: int, life: Life) -> Step:
        phase = LOST if life.phase == END else DEAD
        text = "had sent an end of a body that does not arrive"
        return self._step(FAULT, number, text, life, phase=phase)

    def _store(self, number: int, life: Life) -> Step:
        """Let the end arrive: the bucket stores the whole body."""
        place, key = _of(life), life.key
        assert key is not None
        file = self.world.files[place]
        text = f"the body of {self._who(number)} is stored as object {key}"
        for old_key, other in self.world.bucket:
            if old_key == key and other != place and self.one_path:
                raise Broken(OVERWRITTEN, text)
            known = file.ambiguous and file.state != DELIVERED
            if old_key == key and other == place and not known:
                raise Broken(CAME_BACK, text)
            known = file.ambiguous and old_key in file.earlier_keys
            if old_key != key and other == place and not known:
                raise Broken(TWO_OBJECTS, text)
        phase = STORED if life.phase == END else DEAD
        world = self.world._replace(bucket=tuple(sorted({*self.world.bucket, (key, place)})))
        after = _with_life(world, number, life._replace(phase=phase))
        return Step(TIME, text, after)

    def _write(self, number: int, life: Life, state: str) -> Step:
        """Record how an attempt ended: delivered, or back to the queue."""
        place = _of(life)
        if self.rules.token and not _holds(life):
            return self._refused(number, life)
        text = f"{self._who(number)} records {_name(place)} as {state}"
        if not _holds(life):
            raise Broken(FENCED_WRITE, text)
        if state == DELIVERED and (life.key, place) not in self.world.bucket:
            raise Broken(NOT_STORED, text)
        ambiguous = self.world.files[place].ambiguous or life.phase == LOST
        world = self._with_file(place, state=state, ambiguous=ambiguous)
        after = _with_life(world, number, _idle(life)._replace(claim=None))
        return Step(self.hosts[number], text, after)

    def _refused(self, number: int, life: Life) -> Step:
        text = "finds another token, and gives up"
        return self._step(self.hosts[number], number, text, _idle(life))

    # Words, and other worlds.

    def _who(self, number: int) -> str:
        host = self.hosts[number]
        lives = self.hosts.count(host)
        return f"{host}{number - self.hosts.index(host) + 1}" if lives > 1 else host

    def _step(self, actor: str, number: int, text: str, life: Life, **changes: object) -> Step:
        changed = life._replace(**changes)  # type: ignore[arg-type]
        return Step(actor, f"{self._who(number)} {text}", _with_life(self.world, number, changed))

    def _with_file(self, place: int, **changes: object) -> World:
        return _with_file(self.world, place, **changes)


def _with_file(world: World, place: int, **changes: object) -> World:
    files = list(world.files)
    files[place] = files[place]._replace(**changes)  # type: ignore[arg-type]
    return world._replace(files=tuple(files))


def _with_life(world: World, number: int, life: Life) -> World:
    """Return the world with another life, less what makes no difference any more."""
    if life.claim is None and life.phase == IDLE:
        # It can renew its lease before it does anything else; an ended one does nothing else.
        life = Life(phase=DEAD) if life.ended else Life()
    elif life.claim is None and life.phase == DEAD:
        life = Life(phase=DEAD)
    lives = list(world.lives)
    lives[number] = life
    return world._replace(lives=tuple(lives))


def _taken_back(world: World, place: int) -> dict[str, object]:
    """Return the changes of a row that is taken back: with a grant, an object may be there."""
    file = world.files[place]
    return {"state": QUEUED, "ambiguous": file.ambiguous or file.key is not None}


def _idle(life: Life) -> Life:
    return life._replace(phase=IDLE, file=None, key=None)


def _of(life: Life) -> int:
    assert life.file is not None
    return life.file


def _holds(life: Life) -> bool:
    return life.claim == life.file


def _name(place: int) -> str:
    return f"file {place + 1}"


def _list(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


class Result(NamedTuple):
    """What a search found: how many states there are, and the shortest way to a problem."""

    states: int
    problem: str
    trace: tuple[str, ...]


def search(hosts: str, files: int, rules: Rules, *, one_path: bool = False) -> Result:
    """Visit every state, the nearest first; stop at the first problem.

    `hosts` names the lives: "AAB" is a host A with up to two lives, one after the other, and a host
    B. `one_path`: the files are versions of one path, each of which comes after the one before.
    """
    first = [number for number, host in enumerate(hosts) if hosts.index(host) == number]
    lives = tuple(Life() if n in first else Life(phase=WAITING) for n in range(len(hosts)))
    begin = World(lives, (File(),) * files)
    alike = len(set(hosts)) == len(hosts)
    numbers, worlds = {begin: 0}, [begin]
    came_from: list[tuple[int, str]] = [(0, "")]
    back: list[list[tuple[int, str]]] = [[]]
    for number, world in enumerate(worlds):  # it grows on the way
        try:
            for step in _Steps(hosts, rules, world, one_path=one_path).all():
                key = _sorted(step.after) if alike else step.after
                after = numbers.setdefault(key, len(worlds))
                if after == len(worlds):
                    worlds.append(step.after)
                    came_from.append((number, step.text))
                    back.append([])
                back[after].append((number, step.actor))
        except Broken as broken:
            trace = (*_trace(came_from, number), str(broken))
            return Result(len(worlds), broken.kind, trace)
    # Hosts of one life each are alike: what is true of the first is true of the others.
    for survivor in sorted(set(hosts[:1] if alike else hosts)):
        good = _delivers(worlds, back, survivor)
        for number, world in enumerate(worlds):
            if not good[number] and _is_alive(hosts, world, survivor):
                return Result(len(worlds), STUCK, _trace(came_from, number))
    return Result(len(worlds), "", ())


def _sorted(world: World) -> World:
    """Return the same for worlds that differ in the order of their lives, less the first."""
    first, *others = world.lives
    others.sort(key=lambda life: (*life[:3], *(value or -1 for value in life[3:])))
    return world._replace(lives=(first, *others))


def _is_alive(hosts: str, world: World, survivor: str) -> bool:
    """Return whether a host runs, or can start again."""
    lives = [life for life, host in zip(world.lives, hosts, strict=True) if host == survivor]
    return any(
        life.phase == WAITING or (life.phase not in NOT_RUNNING and not life.ended)
        for life in lives
    )


def _delivers(worlds: list[World], back: list[list[tuple[int, str]]], survivor: str) -> bytearray:
    """Return for each world whether this host alone can bring every file to the server."""
    good = bytearray(len(worlds))
    queue = deque(
        number
        for number, world in enumerate(worlds)
        if all(file.state == DELIVERED for file in world.files)
    )
    for number in queue:
        good[number] = 1
    while queue:
        for number, actor in back[queue.popleft()]:
            if not good[number] and actor in {TIME, survivor}:
                good[number] = 1
                queue.append(number)
    return good


def _trace(came_from: list[tuple[int, str]], number: int) -> tuple[str, ...]:
    texts: list[str] = []
    while number > 0:
        number, text = came_from[number]
        texts.append(text)
    return tuple(reversed(texts))
