"""The SQLite journal: queue, pinned grants and receipts.

Here belongs every statement that writes an entry. It may import `spool`, `datasets`
and the modules at the top of `emitterd`. The one idea: each method is one transaction
that moves entries between states, as the transition table in `model` allows; what it
returns is on disk.
"""
