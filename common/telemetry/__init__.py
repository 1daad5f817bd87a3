"""What a running process tells of itself: traces and metrics."""
