"""The first loop: hints of the watcher and sweeps become entries in the journal.

Decides whether a file is complete and acceptable. It may import `housekeeping` and all packages
below that, but not `delivery`. Main rules: events are only hints, and a sweep finds what they
missed. One function, `FileStatusReader.look_up`, decides on a path. It checks in this order:

1. The name: `Selection.ignored`, `Selection.wrong_ending`.
2. The lease, which shows whether a process has the file open: `lease_state`.
3. Whether the zip is whole: `zip_flaw`.
4. The quiet period, where no lease is possible: `Tracker.observe`.
"""
