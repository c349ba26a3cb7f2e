"""The child process that uses Apprise: `python -m emitterd.monitoring.alerts.sender`.

Standard input has one order as JSON: to send a message to a url, or to judge urls. Only this
module uses apprise, and only a child imports this module: apprise takes half a second and 15 MiB.
"""

import json
import logging
import os
import signal
import sys
from typing import Any

from apprise import Apprise, AppriseAsset, NotifyBase, NotifyFormat, NotifyType, OverflowMode
from apprise.manager_plugins import NotificationManager

TYPES = {"CRITICAL": NotifyType.FAILURE, "WARNING": NotifyType.WARNING, "OK": NotifyType.SUCCESS}

GRACE_S = 5.0
"""The daemon ends this process at the limit. Without a daemon it ends itself, this much later."""


def main() -> int:
    """Carry out the order; return 0 if the service took the message."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    signal.alarm(int(order["limit_s"] + GRACE_S))
    urls = order.get("judge")
    if urls is not None:
        print(json.dumps([_problem(url) for url in urls]))
        return 0
    if order["proxy"]:
        # Set here and not by the daemon: nobody sees it in the process list.
        os.environ.update(dict.fromkeys(("http_proxy", "https_proxy"), order["proxy"]))
    url = order["url"]
    service = _service(url)
    if service is None:
        print(_problem(url))
        return 1
    # Only warnings: the lines below them quote the message.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    kind = NotifyType.INFO if order["test"] else TYPES[order["level"]]
    notifier = Apprise(asset=_asset())
    notifier.add(service)
    done = notifier.notify(
        order["body"], order["title"], notify_type=kind, body_format=NotifyFormat.TEXT
    )
    return 0 if done else 1


def _service(url: str) -> NotifyBase | None:
    """Return the service of a url, for plain text of a length that it takes."""
    # Without a handler Python would print what Apprise logs, and that may quote the url.
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    service = Apprise.instantiate(url, asset=_asset(), suppress_exceptions=True)
    if not isinstance(service, NotifyBase):
        return None
    options = url.partition("?")[2]
    if "format=" not in options:
        service.notify_format = NotifyFormat.TEXT
    if "overflow=" not in options:
        # A text message to a gateway: one that is too long would be refused, or cost several.
        service.overflow_mode = OverflowMode.TRUNCATE
    return service


def _problem(url: str) -> str:
    """Return what is wrong with a url, without quoting it, or nothing."""
    if _service(url) is not None:
        return ""
    scheme = url.partition("://")[0].lower()
    if scheme not in NotificationManager().schemas():  # type: ignore[no-untyped-call]
        return "Apprise knows no service of this name"
    return "Apprise cannot use this URL for its service: a part is missing or wrong"


def _asset() -> AppriseAsset:
    return AppriseAsset(app_id="emitterd", app_desc="emitterd", app_url="", async_mode=False)


if __name__ == "__main__":
    sys.exit(main())
