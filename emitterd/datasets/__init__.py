"""What the server accepts: the catalogue of datasets, and the inspection of a zip.

Here belongs what is known about data files, and nothing about queues or networks. It may import
only the modules at the top of `emitterd`. The one idea: the rules are data (`catalogue.yaml`), and
the inspection reads a bounded part of a file in a stream.
"""
