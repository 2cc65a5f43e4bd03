"""Product videos."""
