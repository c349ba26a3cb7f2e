"""Who may use the page: users and their passwords, sessions, login.

`users` reads the file of users, `sessions` decides without I/O, and `login` has the handlers.
It may import `http_server` and `rendering` of `web`, and no page.
"""
