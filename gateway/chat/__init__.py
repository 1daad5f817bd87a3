"""Conversations to token ids, through the checkpoint's own chat template."""
