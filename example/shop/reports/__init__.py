"""Reports for the shop's owner."""
