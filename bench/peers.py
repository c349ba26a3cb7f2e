"""What people use instead, on the same work: a sequential client, rclone, curl."""

import shutil
import sys
import sysconfig
from pathlib import Path

from subject import Failed, Ran, run
from support.seaweed import REGION, Seaweed


def sequential(url: str, api_key: str, folder: Path, log: Path, count: int | None = None) -> Ran:
    """Send a folder, or its first `count` files, as upstream's client does."""
    script = Path(__file__).with_name("sequential.py")
    command = [sys.executable, str(script), url, api_key, str(folder)]
    return run(command + ([str(count)] if count else []), None, log)


def rclone(seaweed: Seaweed, bucket: str, folder: Path, log: Path, transfers: int) -> Ran:
    """Copy a folder to the S3 engine by rclone."""
    command = [
        *(tool("rclone"), "copy", str(folder), f"bench:{bucket}"),
        *("--transfers", str(transfers), "--s3-no-check-bucket"),
    ]
    return run(command, rclone_environment(seaweed, log.parent), log)


def rclone_environment(seaweed: Seaweed, home: Path) -> dict[str, str]:
    """Configure rclone by its environment alone; no file of this machine is read."""
    remote = {
        "TYPE": "s3",
        "PROVIDER": "SeaweedFS",
        "ENDPOINT": seaweed.url,
        "REGION": REGION,
        "ACCESS_KEY_ID": seaweed.access_key,
        "SECRET_ACCESS_KEY": seaweed.secret_key,
    }
    return {f"RCLONE_CONFIG_BENCH_{key}": value for key, value in remote.items()} | {
        "HOME": str(home),
        "RCLONE_CONFIG": str(home / "rclone.conf"),
    }


def curl(url: str, fields: dict[str, str], path: Path, log: Path) -> Ran:
    """Post one file by a form, as `curl -F` streams it."""
    forms = [part for field in fields.items() for part in ("-F", "=".join(field))]
    command = [tool("curl"), "-sS", "--fail", "--noproxy", "*", *forms]
    return run([*command, "-F", f"file=@{path};type=application/zip", url], None, log)


def digest(name: str, path: Path, log: Path) -> Ran:
    """Read a file once, by `sha256sum` or its like."""
    return run([tool(name), str(path)], None, log)


def tool(name: str) -> str:
    """Return the path of a tool. Raises `Failed` if it is not installed."""
    path = find_tool(name)
    if path is None:
        raise Failed(f"{name} is not installed")
    return path


def find_tool(name: str) -> str | None:
    """Return the path of a tool: of this environment, or of the system; or None."""
    own = Path(sysconfig.get_path("scripts"), name)
    return str(own) if own.exists() else shutil.which(name)
