"""Traces and logs: what a process tells about the requests it served."""
