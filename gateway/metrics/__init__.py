"""What a gateway measures of itself, its requests, steps, ranks and draft workers."""
