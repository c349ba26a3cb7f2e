"""The pages that an office works with, and the HTTP server behind them.

`site` has the table of all addresses, `http_server` serves them, and each page has a module of its
own. A page reads the journal for each request; what the daemon knows comes as arguments from
`service`. It may import `monitoring` and all packages below that. `config` reads `web.listen` by
`endpoint`, so this module and that one import no library.
"""
