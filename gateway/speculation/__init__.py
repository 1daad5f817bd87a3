"""Drafts for the step loop: the gateway's end of the draft stream."""
