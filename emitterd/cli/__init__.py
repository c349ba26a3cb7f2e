"""The commands: each module is one command, or what all commands share.

Here belong arguments, output and exit codes; the work is done below. It may import every other
package, and nothing imports it. The one idea: `main` imports a command only when it runs, so that
`status` does not pay for the daemon.
"""
