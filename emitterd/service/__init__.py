"""The daemon as a process: components, threads, signals, systemd, log, reload.

Here belongs the wiring: which component knows which, what runs in which thread, and in which order
everything stops. It may import `config` and everything below it. The one idea: components are built
once in `components`, and no component reaches into another's.
"""
