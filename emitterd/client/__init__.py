"""The emission API and the S3 bucket over HTTP.

Here belongs everything that sends or reads a byte of the network. It may import `spool`, `datasets`
and the modules at the top of `emitterd`. The one idea: one call is one attempt. It returns, or
raises `DeliveryError`, whose `Decision` says what to do next; nothing here waits longer than its
time limits.
"""
