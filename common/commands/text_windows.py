"""A text longer than the model's context, in windows: what is scored where, and with which context before it."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tandem.v1 import inference_service_pb2 as pb

if TYPE_CHECKING:
    from tandem.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

# Four times below the largest request that a gateway takes by default, in bytes of any characters.
PIECE_CHARS = 64 << 10


class Window(NamedTuple):
    """Tokens [start, stop) are read at once, those from `first` on are scored."""

    start: int
    first: int
    stop: int

    @property
    def scored(self) -> int:
        """Number of scored tokens."""
        return self.stop - self.first


def windows_over(num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Yield windows of `window` tokens, each `stride` (at most `window`) after the last, that score every token once.

    As in transformers' guide to perplexity of fixed-length models: a window scores what none before it has scored. A
    window's first token has no context and is left out; with stride < window that is only the text's first one.
    """
    assert 1 <= stride <= window
    start = done = 0
    while done < num_tokens:
        stop = min(start + window, num_tokens)
        candidate = Window(start, max(done, start + 1), stop)
        if candidate.scored > 0:
            yield candidate
        start, done = start + stride, stop


def spread(windows: Sequence[Window], max_tokens: int | None) -> list[Window]:
    """Return all windows or, evenly spread, as many as score about `max_tokens` tokens, one at least."""
    total = sum(window.scored for window in windows)
    if max_tokens is None or max_tokens >= total:
        return list(windows)
    wanted = max(1, max_tokens * len(windows) // total)
    return [windows[index * len(windows) // wanted] for index in range(wanted)]


def pieces_of(text: str, most_chars: int = PIECE_CHARS) -> Iterator[str]:
    """Cut `text` into pieces of at most `most_chars` characters, at ends of lines, else between words, else anywhere.

    No tokenizer that splits off words first has a token across such ends, where single blanks are at them.
    """
    start = 0
    while start < len(text):
        stop = start + most_chars
        if stop < len(text):
            stop = _last_cut(text, start, stop, _ends_line) or _last_cut(text, start, stop, _ends_word) or stop
        yield text[start:stop]
        start = stop


def _last_cut(text: str, start: int, stop: int, is_cut: Callable[[str, str, str], bool]) -> int | None:
    for at in range(stop, start + 1, -1):
        if is_cut(text[at - 2], text[at - 1], text[at]):
            return at
    return None


def _ends_line(before: str, last: str, following: str) -> bool:
    return last == "\n" and not before.isspace() and not following.isspace()


def _ends_word(before: str, last: str, following: str) -> bool:
    # A space belongs to the word behind it; that one more blank may follow does no harm worth looking further.
    return following == " " and not last.isspace()


async def tokenize(stub: "InferenceServiceAsyncStub", text: str) -> list[int]:
    """Return the ids of a text of any length, piece by piece; what the model begins texts with stands once in front."""
    begin_ids = list((await stub.Tokenize(pb.TokenizeRequest(text=""))).token_ids)
    ids = list(begin_ids)
    async for piece_ids in _tokenized(stub, text):
        ids += piece_ids[len(begin_ids) :]
    return ids


async def _tokenized(stub: "InferenceServiceAsyncStub", text: str) -> AsyncIterator[Sequence[int]]:
    for piece in pieces_of(text):
        yield (await stub.Tokenize(pb.TokenizeRequest(text=piece))).token_ids
