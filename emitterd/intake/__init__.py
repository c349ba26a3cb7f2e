"""The first loop: hints of the watcher and sweeps become entries in the journal.

Here belongs the decision whether a file is complete and acceptable. It may import
`housekeeping` and everything below it, but not `delivery`. The one idea: events are
hints, the sweep is the truth; a path is judged by one function, whoever asks.
"""
