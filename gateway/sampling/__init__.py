"""How the gateway draws tokens from the records that the ranks report."""
