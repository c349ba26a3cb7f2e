"""TODO spool."""
