"""The gateway: tokenises, schedules, samples, streams. No GPU, no torch."""
