"""What the server accepts: the catalogue of datasets, and the inspection of a zip.

Contains the rules for data files, and nothing about queues or networks. It may import only the
modules at the top of `emitterd`. Main rules: the schemas are data (`catalogue.yaml`, and
`programs.yaml` for cQube 5), and the inspection reads a limited part of a file as a stream.
"""
