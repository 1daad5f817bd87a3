"""The shard worker's commands."""
