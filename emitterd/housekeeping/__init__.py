"""What happens to files and entries afterwards: disposal and retention.

Works on finished versions of files: `disposal` archives or deletes files, `retention` deletes old
rows. It may import `journal`, `client`, `spool`, `datasets` and the modules at the top of
`emitterd`. Main rule: each step can be repeated after a crash, because the journal records it
before and after.
"""
