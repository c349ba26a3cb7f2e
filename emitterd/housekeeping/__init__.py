"""TODO housekeeping."""
