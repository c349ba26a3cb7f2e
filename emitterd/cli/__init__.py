"""The commands: each module is one command, or what all commands share.

Contains arguments, output and exit codes; other packages do the work. It may import every other
package, and nothing imports it. Main rule: `main` imports a command only when it runs, so that
`status` does not load the daemon.
"""
