"""The draft worker's commands."""
