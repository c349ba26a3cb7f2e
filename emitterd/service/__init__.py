"""The daemon as a process: components, threads, signals, systemd, log, reload.

Connects the components, runs them in threads, and stops them in order. It may import `config` and
all packages below that. Main rule: components are built once, in `components`, and a component uses
only those that it got as arguments.
"""
