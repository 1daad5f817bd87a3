"""What more than one service needs. Never torch, never a service."""
