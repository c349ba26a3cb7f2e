"""The journal as one SQLite file, for one host.

Only `emitterd.journal.opening` imports this package.
"""
