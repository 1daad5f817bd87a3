"""`tandem eval`: a running gateway judged by EleutherAI's lm-evaluation-harness, through the public API alone."""
