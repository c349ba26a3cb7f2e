"""The journal on PostgreSQL, which several hosts can share.

Only `emitterd.journal.opening` imports this package, and only where `journal.url` is set: psycopg
is optional, and takes 0.1 s to import.
"""
