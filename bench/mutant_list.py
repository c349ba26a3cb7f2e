"""The mutants: what is taken away from the package, and which tests must notice.

A mutant replaces a text that stands exactly once in its file. When the code changes
so that it does not, the mutant is to be brought up to date: `tests/test_mutants.py`
holds that.
"""

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "emitterd"


class StaleMutant(Exception):
    """The text that a mutant replaces does not stand exactly once in its file."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change for the worse. `tests`: what is run to notice it, as pytest's ids."""

    name: str
    loses: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, package: Path) -> None:
        """Change a copy of the package. Raises `StaleMutant`."""
        path = package / self.file
        text = path.read_text("utf-8")
        if (found := text.count(self.old)) != 1:
            raise StaleMutant(
                f"{self.name}: what it replaces stands {found} times in {self.file}"
            )
        path.write_text(text.replace(self.old, self.new), "utf-8")


_RECORD = (
    "        self._journal.deliver(entry, receipt, duration_s=duration_s,"
    " dispose=not keeps)\n"
)

MUTANTS = (
    Mutant(
        "commit-not-synced",
        "a commit survives a power cut",
        "database.py",
        "pragma synchronous = full",
        "pragma synchronous = off",
        ("test_durability.py",),
    ),
    Mutant(
        "claim-of-a-grant-not-synced",
        "what may be sent at once is claimed on disk",
        "journal.py",
        "        if entry.grant is not None and not pinned:\n",
        "        if False:\n",
        ("test_durability.py",),
    ),
    Mutant(
        "copy-not-synced",
        "an archived copy is on disk before its source goes",
        "relocation.py",
        "sync(copy, os.O_NOFOLLOW)",
        "(lambda *_: None)(copy, os.O_NOFOLLOW)",
        ("test_durability.py",),
    ),
    Mutant(
        "lease-always-closed",
        "a file that is still written is not sent",
        "spool.py",
        "return Proof.OPEN if busy else Proof.NONE",
        "return Proof.CLOSED if busy else Proof.CLOSED",
        ("test_intake.py",),
    ),
    Mutant(
        "lease-kept",
        "a writer never waits for the daemon",
        "spool.py",
        "    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n",
        "",
        ("test_spool.py",),
    ),
    Mutant(
        "grant-not-pinned",
        "a retry goes to the same key",
        "attempt.py",
        "        self._journal.pin(entry, grant, confirmation)\n",
        "",
        ("test_worker_grants.py",),
    ),
    Mutant(
        "grant-always-new",
        "a retry goes to the same key",
        "attempt.py",
        "if pinned is None or not self._emission.usable(pinned, time.time()):",
        "if True:",
        ("test_worker_grants.py",),
    ),
    Mutant(
        "grant-past-its-end",
        "a grant near its end is not used",
        "emission.py",
        "now <= grant.expires_at - EXPIRY_MARGIN_S",
        "bool(now)",
        ("test_worker_grants.py",),
    ),
    Mutant(
        "grants-within-a-second",
        "two versions of a path have two keys",
        "attempt.py",
        "            self._abort.wait(spacing_s)\n",
        "            pass\n",
        ("test_worker.py",),
    ),
    Mutant(
        "earlier-key-forgotten",
        "a second object is on record",
        "statements.py",
        "case when ambiguous and key <> :key",
        "case when 0 and key <> :key",
        ("test_worker_grants.py",),
    ),
    Mutant(
        "etag-not-compared",
        "the bucket has the bytes that were sent",
        "emission.py",
        "if md5 is not None and md5 != body.md5.hex():",
        "if False:",
        ("test_emission_delivery.py",),
    ),
    Mutant(
        "lost-answer-not-looked-up",
        "an object that is there costs no second key",
        "attempt.py",
        "if entry.grant is None or not entry.ambiguous:",
        "if True:",
        ("test_confirmation.py",),
    ),
    Mutant(
        "any-object-confirms",
        "an object of other bytes is no delivery",
        "confirmation.py",
        "if self.md5 is not None and self.md5 != md5.hex():",
        "if False:",
        ("test_confirmation.py",),
    ),
    Mutant(
        "digests-not-awaited",
        "a receipt's digests are those of all bytes",
        "hashing.py",
        "        self._wait(0)\n",
        "",
        ("test_hashing.py",),
    ),
    Mutant(
        "early-success-believed",
        "an answer before the body's end is no success",
        "emission.py",
        "    if not body.sent:\n",
        "    if False:\n",
        ("test_emission_delivery.py",),
    ),
    Mutant(
        "success-without-etag",
        "a captive portal's page is no success",
        "classify.py",
        'if status in _SUCCESS and headers.get("etag"):',
        "if status in _SUCCESS:",
        ("test_classify.py",),
    ),
    Mutant(
        "lost-answer-unambiguous",
        "an outcome that is not known is called ambiguous",
        "classify.py",
        '            f"no answer after the whole body: {detail}",\n'
        "            ambiguous=True,\n",
        '            f"no answer after the whole body: {detail}",\n',
        ("test_worker_grants.py",),
    ),
    Mutant(
        "change-not-noticed",
        "a file that changes while it is sent is not stored",
        "multipart.py",
        "        self._check(left)\n",
        "",
        ("test_multipart.py",),
    ),
    Mutant(
        "other-version-sent",
        "what is sent is what was admitted",
        "worker.py",
        "if Fingerprint.of(os.fstat(file.fileno())) != entry.fingerprint:",
        "if False:",
        ("test_worker.py",),
    ),
    Mutant(
        "never-swept",
        "what the events lost is found",
        "intake.py",
        "if now >= self._next_sweep_at and not any(one.whole for one in self._sweeps):",
        "if False:",
        ("test_intake.py",),
    ),
    Mutant(
        "swept-once",
        "what the events lost is found while the daemon runs",
        "intake.py",
        "self._next_sweep_at = now + self._examiner.rules.sweep_every_s",
        'self._next_sweep_at = float("inf")',
        ("test_intake.py",),
    ),
    Mutant(
        "zip-end-not-checked",
        "a cut-off zip is not sent",
        "examination.py",
        "flaw = zip_flaw(read, seen.size_bytes)",
        "flaw = None if read and zip_flaw else None",
        ("test_intake.py",),
    ),
    Mutant(
        "inner-zip-taken",
        "a cut-off zip that ends in another zip is not sent",
        "container.py",
        "if directory.at + directory.size_bytes != directory.ends_at:",
        "if False:",
        ("test_container.py",),
    ),
    Mutant(
        "deleted-before-the-record",
        "a file is touched only after its delivery is on record",
        "worker.py",
        _RECORD,
        "        if not keeps:\n"
        "            (self._spool.root / os.fsdecode(entry.path)).unlink()\n" + _RECORD,
        ("test_durability.py::test_without_the_record_nothing_follows",),
    ),
    Mutant(
        "told-before-the-record",
        "a line is logged only after its record",
        "worker.py",
        _RECORD,
        '        log.info("file.delivered", path=entry.name, sha256="")\n' + _RECORD,
        ("test_durability.py::test_without_the_record_nothing_follows",),
    ),
    Mutant(
        "disposal-recorded-first",
        "a disposal that a crash cut short is done later",
        "disposal.py",
        "reach(Point.DISPOSAL_DUE)",
        "self._journal.dispose(entry_id, None) or reach(Point.DISPOSAL_DUE)",
        ("test_crash.py::test_kill_at_every_point[0-disposal-due-1]",),
    ),
    Mutant(
        "retry-after-ignored",
        "a server that asks for time gets it",
        "backoff.py",
        "if retry_after_s is not None:",
        "if False:",
        ("test_backoff.py",),
    ),
    Mutant(
        "retry-after-not-read",
        "a server that asks for time gets it",
        "classify.py",
        'value = headers.get("retry-after", "").strip()',
        'value = ""',
        ("test_classify.py",),
    ),
    Mutant(
        "login-lock-removed",
        "one login serves all workers",
        "session.py",
        "self._lock = threading.Lock()",
        "self._lock = threading.Semaphore(99)",
        ("test_emission.py",),
    ),
    Mutant(
        "refused-login-repeated",
        "a wrong password does not lock the account",
        "session.py",
        "if again and again.wait_s(now) > 0:",
        "if False:",
        ("test_emission.py",),
    ),
    Mutant(
        "parked-attempt-charged",
        "an outage costs no file an attempt",
        "passage.py",
        "due_at, charge=charge)",
        "due_at, charge=True)",
        ("test_worker.py",),
    ),
    Mutant(
        "never-parked",
        "trouble of the destination holds everything back",
        "gate.py",
        "if self._down is None:\n            return 0.0 if self",
        "if True:\n            return 0.0 if self",
        ("test_gate.py",),
    ),
    Mutant(
        "no-slow-start",
        "a server that has just come back is not rushed",
        "gate.py",
        "self._allowance.restart()",
        "pass",
        ("test_gate.py",),
    ),
    Mutant(
        "link-followed",
        "nothing outside the folder is read through a link",
        "spool.py",
        "_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC",
        ("test_spool.py",),
    ),
    Mutant(
        "linked-folder-followed",
        "nothing outside the folder is read through a folder's link",
        "spool.py",
        "_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC",
        ("test_spool.py",),
    ),
    Mutant(
        "journal-not-locked",
        "two daemons never share a journal",
        "lock.py",
        "                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                pass\n",
        ("test_database.py",),
    ),
    Mutant(
        "two-live-versions",
        "a path is never uploaded twice at once",
        "schema.sql",
        "create unique index entry_live",
        "create index entry_live",
        ("test_journal.py",),
    ),
    Mutant(
        "claims-not-taken-back",
        "what a dead process had claimed is sent",
        "journal.py",
        'where state = \'delivering\'""",\n            (time.time(),),',
        'where state = \'delivering\' and 0""",\n            (time.time(),),',
        ("test_worker_grants.py",),
    ),
    Mutant(
        "reclaimed-unambiguous",
        "an upload that a crash cut off is called ambiguous",
        "journal.py",
        'ambiguous = ambiguous or "grant" is not null',
        "ambiguous = ambiguous",
        ("test_worker_grants.py",),
    ),
    Mutant(
        "latest-pruned",
        "retention keeps what lies in the folder",
        "retention.py",
        "if superseded or self._gone(path)",
        "if superseded or self._gone(path) or True",
        ("test_retention.py",),
    ),
    Mutant(
        "root-never-lost",
        "an unmounted folder withdraws nothing",
        "spool.py",
        "        if identity is None:\n            return True\n",
        "        if identity is None:\n            return False\n",
        ("test_worker.py",),
    ),
    Mutant(
        "hostile-grant-taken",
        "no grant leads to the cloud's metadata service",
        "grant.py",
        "    if linked and there != here:\n",
        "    if False:\n",
        ("test_grant.py",),
    ),
    Mutant(
        "redirected-anywhere",
        "no body follows a redirect to another domain",
        "grant.py",
        "    if not related(location, url):",
        "    if False:",
        ("test_grant.py",),
    ),
    Mutant(
        "dribbling-answer-awaited",
        "an answer that never ends is given up",
        "transfer.py",
        "        if now >= self.answer_by:\n",
        "        if False:\n",
        ("test_sockets.py",),
    ),
)
