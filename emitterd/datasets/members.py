"""Which of a zip's files is the data, and what the others are.

Source: "Emission process" of cQube (each file zipped alone), and its NiFi templates:
1.1 and 1.2 wait for a manifest beside the CSV; from 1.3 on every file of a zip is
renamed to the dataset's and read as its data.
"""

from collections.abc import Iterable, Sequence
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipInfo

from emitterd.codes import Code
from emitterd.datasets.dataset import Version, VersionRange
from emitterd.datasets.findings import Finding, finding, quoted

_MANIFEST = "manifest_datasource_"
_MANIFESTS = VersionRange(Version(1, 1), Version(1, 2))
_NAMED_MAX = 3

_ENCRYPTED_FLAGS = 0x1 | 0x40
"""Flags of a file that is encrypted, and of one that is strongly so."""
_AES = 99
_METHODS = {
    9: "Deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    98: "PPMd",
}


def choose(
    entries: Iterable[ZipInfo], version: Version | None
) -> tuple[ZipInfo | None, list[Finding]]:
    """Return the entry that holds the data, and what is wrong with the others.

    None where there is no telling which one it is.
    """
    files = [one for one in entries if not one.filename.endswith(("/", "\\"))]
    manifests = [one for one in files if _is_manifest(one)]
    data = [one for one in files if not _is_manifest(one) and not _of_a_mac(one)]
    chosen = _only(data)
    if not data:
        found = _enumeration(files, due=False) if files else "no file"
        return None, [finding(Code.NO_FILE_IN_ZIP, "one CSV", found)]
    findings = []
    due = version is not None and _MANIFESTS.holds(version)
    if due and chosen is not None:
        findings += _manifest_findings(chosen, manifests)
    if len(files) > (1 + len(manifests) if due else 1):
        expected = "one CSV and its manifest" if due else "one CSV"
        found = _enumeration(files, due=due)
        findings.append(finding(Code.SEVERAL_FILES, expected, found))
    return chosen, findings


def obstacle(entry: ZipInfo) -> Finding | None:
    """Return why the server cannot unpack a file, or None."""
    if entry.flag_bits & _ENCRYPTED_FLAGS or entry.compress_type == _AES:
        return finding(Code.ENCRYPTED, "a zip without a password", "an encrypted file")
    if entry.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        return finding(Code.COMPRESSION, "deflate, or no compression", method)
    return None


def _only(data: Sequence[ZipInfo]) -> ZipInfo | None:
    if len(data) > 1:
        data = [one for one in data if one.filename.lower().endswith(".csv")]
    return data[0] if len(data) == 1 else None


def _manifest_findings(csv: ZipInfo, manifests: Sequence[ZipInfo]) -> list[Finding]:
    due = f"{_MANIFEST}{_base(csv).rpartition('.')[0] or _base(csv)}.csv"
    if any(_base(one) == due for one in manifests):
        return []
    found = ", ".join(quoted(_base(one)) for one in manifests[:_NAMED_MAX])
    return [finding(Code.NO_MANIFEST, due, found or "no manifest")]


def _base(entry: ZipInfo) -> str:
    return entry.filename.rpartition("/")[2]


def _is_manifest(entry: ZipInfo) -> bool:
    return _base(entry).startswith(_MANIFEST)


def _of_a_mac(entry: ZipInfo) -> bool:
    base = _base(entry)
    return (
        entry.filename.startswith("__MACOSX/")
        or base == ".DS_Store"
        or base.startswith("._")
    )


def _enumeration(files: Sequence[ZipInfo], *, due: bool) -> str:
    names = [_description(one, due=due) for one in files[:_NAMED_MAX]]
    more = ["…"] if len(files) > _NAMED_MAX else []
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    return f"{count}: {', '.join(names + more)}"


def _description(file: ZipInfo, *, due: bool) -> str:
    name = quoted(file.filename)
    if _of_a_mac(file):
        return f"{name} (which a Mac adds)"
    if _is_manifest(file) and not due:
        return f"{name} (which only cQube 1.1 and 1.2 read)"
    return name
