"""The watched folder: list it, open files in it, watch it, and move files.

Here belongs what touches files of the folder and no policy: what is done with a file is decided in
`intake`, `delivery` and `housekeeping`. It may import only the modules at the top of `emitterd`.
The one idea: every path is opened below the root's descriptor, without following links, so nothing
outside the folder is ever read or moved.
"""
