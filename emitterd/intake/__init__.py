"""The first loop: hints of the watcher and sweeps become entries in the journal.

Here belongs the decision whether a file is complete and acceptable. It may import `housekeeping`
and everything below it, but not `delivery`. The one idea: events are hints, the sweep is the truth;
one function, `FileStatusReader.look_up`, judges a path for everybody. It checks in this order:

1. The name: `Selection.ignored`, `Selection.wrong_ending`.
2. The lease, which tells whether a process has the file open: `lease_state`.
3. Whether the zip is whole: `zip_flaw`.
4. The quiet period, where no lease is possible: `Tracker.observe`.
"""
