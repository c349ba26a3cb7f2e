"""What happens to files and entries afterwards: disposal, retention, recovery.

Here belongs work on versions that have ended. It may import `journal`, `client`, `spool`,
`datasets` and the modules at the top of `emitterd`. The one idea: each step can be repeated after a
crash, because the journal records it before and after. Files: `disposal`. Rows: `retention`. A
damaged journal: `recovery`.
"""
