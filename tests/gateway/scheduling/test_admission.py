import pytest

from common.errors import Overloaded, SettingsError
from gateway.scheduling.admission import BatchLimits, WaitingQueue
from gateway.scheduling.sequence import Sequence


def test_a_step_must_hold_a_token_of_every_running_sequence() -> None:
    assert BatchLimits(4, 4, 4, 0, 1).max_running == 4
    with pytest.raises(SettingsError, match=r"max_running \(5\) exceeds max_step_tokens \(4\)"):
        BatchLimits(5, 4, 4, 0, 1)


def test_requests_are_bounded_beyond_those_that_start_at_once() -> None:
    queue = WaitingQueue(max_requests=1, max_tokens=100)
    for free_slots in (2, 2, 2):
        queue.check_room(3, free_slots)
        queue.append(Sequence("t", [1, 2, 3], 1))
    with pytest.raises(Overloaded, match="3 requests are waiting"):
        queue.check_room(3, 2)
    queue.popleft()
    queue.check_room(3, 2)


def test_tokens_are_bounded_but_one_long_prompt_may_wait_alone() -> None:
    queue = WaitingQueue(10, max_tokens=5)
    queue.check_room(9, 0)
    queue.append(Sequence("t", range(3), 1))
    queue.check_room(2, 0)
    with pytest.raises(Overloaded, match="3 prompt tokens are waiting"):
        queue.check_room(3, 0)


def test_only_those_that_never_started_count() -> None:
    queue = WaitingQueue(10, 100)
    fresh, started = Sequence("t", range(3), 1), Sequence("t", range(4), 1)
    started.started = True
    queue.append(fresh)
    queue.appendleft(started)
    assert (list(queue), len(queue), queue.head) == ([started, fresh], 2, started)
    assert (queue.queued_requests, queue.queued_tokens) == (1, 3)
    queue.remove(started)
    assert (queue.queued_requests, queue.queued_tokens) == (1, 3)
    assert queue.popleft() is fresh
    assert (queue.queued_requests, queue.queued_tokens, len(queue)) == (0, 0, 0)
