"""The draft worker: proposes tokens, with a small model or from the text itself. The gateway verifies every one."""
