"""What a rank does with its slice of the logits: process, add noise, report the best few."""
