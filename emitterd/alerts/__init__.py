"""Tells people about alarms: by mail, messengers, webhooks, a command, and a heartbeat.

It may import `monitoring` and all packages below that; only `service` imports it. Main rules:
nothing that happens to a channel delays an upload, another channel, or the end of the daemon; and
Apprise is imported only in a child process.
"""
