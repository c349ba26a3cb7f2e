"""The emission API and the S3 bucket, or the ingestion service of cQube 5, over HTTP.

`emission` is the interface for all code above. `presigned.client` (cQube 1.0 to 4.1) and
`ingestion.client` (cQube 5) are its two implementations, and `protocols` chooses one. `api`,
`session`, `responses` and `body` are what both share; `http` and `sockets` know no protocol.
`server_reader` is for `tracking`.

Contains everything that sends to the network or reads from it. It may import `spool`, `datasets`
and the modules at the top of `emitterd`. Main rule: one call is one attempt. The call returns, or
raises `DeliveryError`, whose `Decision` names the next step. No call takes longer than its time
limits.
"""
