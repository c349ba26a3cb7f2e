"""Asks the server what became of delivered files, if `tracking.enabled`.

`tracker` is a loop in a thread of its own, and does all I/O. `policy` decides what is known and
when to look again, and `server_log` reads the server's logs. `texts` explains the result to people.
A failure here never concerns a delivery. docs/tracking.md says what can be known.
"""
