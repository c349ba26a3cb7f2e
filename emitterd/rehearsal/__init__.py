"""TODO rehearsal."""
