"""Stop strings in streamed text: an automaton over all of them (Aho and Corasick 1975)."""

from collections import deque
from collections.abc import Iterable

from common.errors import InvalidRequest

ROOT = 0


class StopStrings:
    """The automaton of one request. A state is the longest end of the text that begins some stop string.

    Building it takes time and memory in proportion to the total length of the strings.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Raises InvalidRequest for an empty string."""
        self.children: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.fallback = [ROOT]
        self.found: list[str | None] = [None]
        for string in strings:
            if not string:
                raise InvalidRequest("stopping.stop_strings", "must not be empty")
            self._add(string)
        self._link()

    def step(self, state: int, character: str) -> int:
        """Return the state after one more character."""
        while character not in self.children[state]:
            if state == ROOT:
                return ROOT
            state = self.fallback[state]
        return self.children[state][character]

    def _add(self, string: str) -> None:
        state = ROOT
        for character in string:
            child = self.children[state].get(character)
            if child is None:
                child = len(self.children)
                self.children[state][character] = child
                self.children.append({})
                self.depth.append(self.depth[state] + 1)
                self.fallback.append(ROOT)
                self.found.append(None)
            state = child
        self.found[state] = string

    def _link(self) -> None:
        """Set every state's fallback, the longest other state its text ends with, breadth first."""
        queue = deque(self.children[ROOT].values())
        while queue:
            state = queue.popleft()
            for character, child in self.children[state].items():
                self.fallback[child] = self.step(self.fallback[state], character)
                self.found[child] = self.found[child] or self.found[self.fallback[child]]
                queue.append(child)


class StopMatcher:
    """Follows one stream.

    The stop string that is complete first wins; of several that are complete with the same character, the
    longest. The text is cut where it begins. This does not depend on how the text is split into pushes. Each
    character is looked at once; at most the length of the longest stop string - 1 is held back.
    """

    def __init__(self, automaton: StopStrings) -> None:
        self._automaton = automaton
        self._state = ROOT
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, str | None]:
        """Return the text that can be shown now, and the stop string once it is complete.

        After a stop string everything is dropped.
        """
        if self._stopped:
            return "", None
        if not self._automaton.children[ROOT]:  # nothing to look for
            return text, None
        state = self._state
        step, found = self._automaton.step, self._automaton.found
        for index, character in enumerate(text):
            state = step(state, character)
            stop = found[state]
            if stop is not None:
                self._stopped = True
                seen = self._held + text[: index + 1]
                self._held = ""
                return seen[: -len(stop)], stop
        self._state = state
        seen = self._held + text
        shown_length = len(seen) - self._automaton.depth[state]
        self._held = seen[shown_length:]
        return seen[:shown_length], None

    def flush(self) -> str:
        """Return the held-back text: the stream ended without completing a stop string."""
        held, self._held = self._held, ""
        self._state = ROOT
        return held
