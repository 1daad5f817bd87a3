"""One turn of a conversation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChatMessage:
    """Who speaks (`role`) and what is said (`content`)."""

    role: str
    content: str
