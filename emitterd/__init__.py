"""emitterd: a watch-folder upload daemon for cQube emission.

A completed zip that was in the folder is never lost and never silently skipped:
it is in the emission bucket, whole, under one pinned object key, or the journal
says which file is not, why, and what to do.
"""

__version__ = "0.1.0"
