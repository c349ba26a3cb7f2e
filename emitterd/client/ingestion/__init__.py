"""cQube 5: the zip goes to the ingestion service, which processes it later.

`client` uploads a file and waits for its final status; `status` reads that status.
"""
