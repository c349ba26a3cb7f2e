"""Notifies people of alarms: by mail, messengers, webhooks, a command, and a heartbeat.

It may import what `monitoring` may, and the rest of `monitoring` does not import it. Main rules:
nothing that happens to a channel delays an upload, another channel, or the end of the daemon; and
Apprise is imported only in a child process.
"""
