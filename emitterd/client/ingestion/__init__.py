"""cQube 5: the zip goes to the ingestion service, which processes it later."""
