"""Who may call the gateway, for which tenant, and how much."""
