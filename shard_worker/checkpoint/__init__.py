"""Checkpoints: what is in them, reading a rank's slice of one, and making one from a foreign model."""
