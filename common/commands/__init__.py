"""The commands that need no service's code: they speak gRPC, or start processes that do."""
