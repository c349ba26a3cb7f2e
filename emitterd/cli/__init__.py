"""The command line: arguments, output and exit codes; other packages do the work.

`commands` has one command a module, `setup` those that set an installation up; what they share lies
here. It may import every other package, and nothing imports it. Main rule: `main` imports a command
only when it runs, so that `status` does not load the daemon.
"""
