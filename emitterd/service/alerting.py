"""Connects the alerts with the configuration: which channels to notify, and the test of each."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from emitterd.client.http import HttpClient
from emitterd.config.settings import Config
from emitterd.monitoring.alerts.channels import (
    HEARTBEAT_LIMITS,
    AppriseChannel,
    Channel,
    CommandChannel,
    HeartbeatChannel,
    Stopping,
    trusted_authorities,
)
from emitterd.monitoring.alerts.loop import AlertRules, Alerts
from emitterd.monitoring.alerts.message import Place, compose_test
from emitterd.service.components import Components
from emitterd.shutdown import Shutdown
from emitterd.text import shown
from emitterd.translation.languages import LANGUAGES


def open_alerts(components: Components) -> Alerts:
    """Return what notifies the configured channels of the alarms of these components."""
    config, shutdown = components.config, components.shutdown
    health, journal = components.health.health, components.journal
    return Alerts(health, journal, _place(config), alert_rules(config, shutdown), shutdown)


def alert_rules(config: Config, shutdown: Shutdown) -> AlertRules:
    """Return which channels to notify, and how often."""
    alerts = config.alerts
    heartbeat = None
    if alerts.heartbeat_url is not None:
        url = alerts.heartbeat_url.reveal()
        heartbeat = HeartbeatChannel(url, lambda: _heartbeat_client(config, shutdown))
    return AlertRules(
        _channels(config),
        heartbeat,
        alerts.heartbeat_every_s,
        alerts.repeat_every_s,
        LANGUAGES[alerts.language],
    )


def try_channels(config: Config, shutdown: Shutdown) -> Iterator[tuple[str, str]]:
    """Send a test alert by every channel; yield each name, and why it failed, if it did."""
    rules = alert_rules(config, shutdown)
    message = compose_test(_place(config), rules.language)
    tries: dict[str, Callable[[Stopping], str]] = {
        channel.name: partial(channel.send, message) for channel in rules.channels
    }
    if rules.heartbeat is not None:
        tries[rules.heartbeat.name] = rules.heartbeat.send
    # All at once: one that hangs takes a minute.
    with ThreadPoolExecutor(max(1, len(tries))) as pool:
        results = pool.map(lambda send: send(shutdown.now.is_set), tries.values())
        yield from zip(tries, results, strict=True)


def _channels(config: Config) -> tuple[Channel, ...]:
    channels: list[Channel] = []
    proxy = config.emission.proxy_url
    numbers: Counter[str] = Counter()
    for notify in config.notify_urls:
        # The journal knows a channel by scheme and number: not by the line, which moves with each
        # comment, nor by a hash of the secret.
        numbers[notify.scheme] += 1
        key = f"{notify.scheme} {numbers[notify.scheme]}"
        channels.append(AppriseChannel(key, notify.name, notify.url.reveal(), proxy))
    if config.alerts.command is not None:
        channels.append(CommandChannel(config.alerts.command))
    return tuple(channels)


def _place(config: Config) -> Place:
    return Place(socket.gethostname(), shown(config.spool.directory))


def _heartbeat_client(config: Config, shutdown: Shutdown) -> HttpClient:
    emission = config.emission
    return HttpClient(
        HEARTBEAT_LIMITS,
        tls=trusted_authorities(str(emission.ca_file) if emission.ca_file else None),
        proxy=emission.proxy_url,
        shutdown=shutdown,
    )
