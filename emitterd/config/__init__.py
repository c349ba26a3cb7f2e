"""The configuration: emitter.yaml and the environment become settings.

Here belong reading, checking and describing the settings. It may import `monitoring` and everything
below it, because it builds their settings; only `service` and `cli` import it. The one idea: all
problems are reported at once, each with key path, line and remedy.
"""
