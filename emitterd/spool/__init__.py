"""The watched folder: list it, open files in it, watch it, and move files.

Reads, opens, moves and deletes files of the folder; `intake`, `delivery` and `housekeeping` decide
what happens to a file. It may import only the modules at the top of `emitterd`. Main rule: every
path is opened below the root's descriptor, without following links. So nothing outside the folder
is ever read or moved.
"""
