"""The commands that set an installation up: folders, configuration, secrets, migration.

It may import every other package; only `cli.main` imports it. Main rule: a file that exists is
never changed without a question.
"""
