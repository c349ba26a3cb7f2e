"""emitterd: a watch-folder upload daemon for cQube emission.

emitterd never loses a complete zip in the folder, and never skips one silently. It
delivers the whole file: to one pinned object key of the emission bucket, or to the
ingestion service of cQube 5. If it cannot, the journal has the name of the file, the
reason and the remedy.
"""

__version__ = "0.2.0"
