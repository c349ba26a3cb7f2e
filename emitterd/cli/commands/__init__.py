"""One command a module: what it prints and its exit code.

It may import every other package; only `cli.main` imports it. Main rule: a command returns its exit
code, and raises the errors that `cli.output` turns into messages.
"""
