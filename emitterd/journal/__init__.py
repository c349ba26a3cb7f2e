"""The journal: queue, pinned grants and receipts.

`Journal` has the changes, each as `work` that a `store` runs; `opening` chooses the store. Every
statement that writes an entry is in this package. Each method of `Journal` is one transaction; it
changes the state of an entry only as the transition table in `model` allows, and returns when the
change is on disk. The package may import `spool`, `datasets` and the modules at the top of
`emitterd`.
"""
