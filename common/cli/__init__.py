"""The frame of the command line: command names, lazy loading, exit codes."""
