"""The text of one stream: ids in, text out, cut at a stop string."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.stop_strings import StopMatcher, StopStrings
from gateway.tokenizers.interface import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """New text, and the stop string that ended the stream, if one did."""

    text: str
    stop_string: str | None = None


class StreamText:
    """Decodes the ids of one stream and looks for its stop strings, across token borders.

    Text is held back while it may be an unfinished character or the beginning of a stop string. Without a
    stop string, all texts together equal `tokenizer.decode` of all ids; with one, that text up to where it
    begins.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Iterable[str]) -> None:
        """Raises InvalidRequest when a stop string is empty."""
        self._decoder = tokenizer.decoder()
        self._matcher = StopMatcher(StopStrings(stop_strings))

    def push(self, token_id: int) -> TextDelta:
        """Return the text that becomes certain with this id. Special tokens add none."""
        return TextDelta(*self._matcher.push(self._decoder.push(token_id)))

    def flush(self) -> TextDelta:
        """Return all that is held back. Bytes that never became a character may still complete a stop string."""
        text, stop_string = self._matcher.push(self._decoder.flush())
        return TextDelta(text + self._matcher.flush(), stop_string)
