"""The configuration: emitter.yaml and the environment become settings.

Reads, checks and describes the settings. It may import `monitoring` and all packages below that,
because it builds their settings; only `service` and `cli` import it. Main rule: all problems are
reported at once, each with key path, line and remedy.
"""
