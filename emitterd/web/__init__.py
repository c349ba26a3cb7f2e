"""The pages that an office works with, and the HTTP server behind them.

`site` has the table of all addresses, `http_server` serves them, and `rendering` turns templates
into responses. `access` decides who is logged in, `actions` has what operators do to files. Each
page has a module of its own: it reads the journal for each request, and gets from `service` what
only the daemon knows.
It may import `monitoring` and all packages below that. `config` reads `web.listen` by `endpoint`,
so this module and that one import no library.
"""
