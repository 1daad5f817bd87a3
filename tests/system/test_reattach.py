"""Ranks that go away and come back: running streams pause and go on, token for token."""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.answers import Answer, generate, generate_all, read_answer, text_request
from tests.support.gateway_process import GatewayProcess, running_gateway
from tests.support.problems import problem_of
from tests.support.ranks import RankProcess, start_rank
from tests.support.tiny_model import TinyModel

NUM_TOKENS = 250
PAUSE_S = 0.5
REQUESTS = [
    text_request("the same story", NUM_TOKENS),
    text_request("the same story", NUM_TOKENS, SamplingParams(temperature=0.9, top_p=0.9, seed=5), logprobs=1),
    text_request("another", NUM_TOKENS, SamplingParams(temperature=1.1, seed=6, frequency_penalty=0.3)),
]


class Scene:
    """A gateway, and ranks that a test starts, stops and starts again at the same addresses."""

    def __init__(self, model: Path, work: Path, tp: int, gateway: GatewayProcess) -> None:
        self._model, self._work, self._tp = model, work, tp
        self._formations = 0
        self.gateway = gateway
        self.ranks: list[RankProcess] = []

    def start_ranks(self) -> None:
        """Start a new formation and wait until the gateway serves with it."""
        self._formations += 1
        rendezvous = f"file://{self._work}/rendezvous-{self._formations}"
        self.ranks = [
            start_rank(self._model, self._work, rank, self._tp, rendezvous=rendezvous) for rank in range(self._tp)
        ]
        self.gateway.wait_serving()

    def end_ranks(self) -> None:
        """Kill what is left of a formation."""
        for rank in self.ranks:
            rank.kill()

    def streams_disturbed_by(self, disturb: Callable[[], None]) -> list[Answer]:
        """Start all REQUESTS, disturb them in the middle, and return their answers."""
        underway = threading.Barrier(len(REQUESTS) + 1)
        with ThreadPoolExecutor(len(REQUESTS)) as threads:
            futures: list[Future[Answer]] = [threads.submit(self._read, request, underway) for request in REQUESTS]
            underway.wait(60)
            disturb()
            return [future.result(120) for future in futures]

    def _read(self, request: pb.GenerateRequest, underway: threading.Barrier) -> Answer:
        def events() -> Iterator[pb.GenerateResponse]:
            for index, event in enumerate(self.gateway.client.stub.Generate(request, timeout=180)):
                if index == 40:
                    underway.wait(60)
                yield event

        return read_answer(events())


@contextmanager
def scene(model: TinyModel, tp: int, **settings: float) -> Iterator[Scene]:
    # Sockets need short paths.
    with tempfile.TemporaryDirectory(prefix="tandem-test-") as name:
        work = Path(name)
        addresses = [f"unix:{work}/rank-{rank}.sock" for rank in range(tp)]
        with running_gateway(model.folder, addresses, work, **settings) as gateway:
            there = Scene(model.folder, work, tp, gateway)
            try:
                yield there
            finally:
                there.end_ranks()


def assert_unavailable(gateway: GatewayProcess) -> None:
    """Without ranks, everything that needs them is refused at once, with a hint when to come back."""
    calls: list[Callable[[], object]] = [
        lambda: generate(gateway.client.stub, text_request("anybody there?", 1)),
        lambda: gateway.client.stub.Score(pb.ScoreRequest(text="anybody there?"), timeout=5),
        lambda: gateway.client.stub.GetModel(pb.GetModelRequest(), timeout=5),
    ]
    for call in calls:
        problem = problem_of(call)
        assert (problem.code, problem.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert problem.retry_after_s
    assert gateway.client.stub.Tokenize(pb.TokenizeRequest(text="abc"), timeout=5).token_ids


@pytest.mark.parametrize(("tp", "tokens"), [(1, 1), (1, 4), (2, 4)])
def test_streams_go_on_when_killed_ranks_come_back(tiny_model: TinyModel, tp: int, tokens: int) -> None:
    with scene(tiny_model, tp, max_tokens_per_frame=tokens, max_frame_ms=1e5) as there:
        gateway = there.gateway
        assert not gateway.serving
        assert_unavailable(gateway)
        there.start_ranks()
        expected = generate_all(gateway.client.stub, REQUESTS)

        def kill_and_restart() -> None:
            there.ranks[-1].signal(signal.SIGKILL)
            gateway.wait_serving(False)
            assert_unavailable(gateway)
            there.end_ranks()  # a rank that waited between two steps does not know yet
            there.start_ranks()

        answers = there.streams_disturbed_by(kill_and_restart)
        for answer, undisturbed in zip(answers, expected, strict=True):
            assert (answer.ids, answer.text) == (undisturbed.ids, undisturbed.text)
            assert answer.finished.reason == undisturbed.finished.reason
            assert max(answer.gaps_s) > PAUSE_S, "the stream was not disturbed"
        timings = answers[0].finished.timings
        assert (timings.frames < timings.steps) == (tokens > 1)
        again = generate_all(gateway.client.stub, REQUESTS)
        assert [answer.ids for answer in again] == [answer.ids for answer in expected]


def test_streams_go_on_when_a_stopped_rank_wakes_up(tiny_model: TinyModel) -> None:
    """SIGSTOP: the rank answers nothing for longer than a step may take, then it is taken over anew."""
    with scene(tiny_model, tp=1, step_timeout_s=1.0, max_tokens_per_frame=1) as there:
        there.start_ranks()
        expected = generate_all(there.gateway.client.stub, REQUESTS)

        def stop_and_go_on() -> None:
            there.ranks[0].signal(signal.SIGSTOP)
            there.gateway.wait_serving(False)
            assert_unavailable(there.gateway)
            there.ranks[0].signal(signal.SIGCONT)
            there.gateway.wait_serving()

        answers = there.streams_disturbed_by(stop_and_go_on)
        assert [answer.ids for answer in answers] == [answer.ids for answer in expected]
        assert all(max(answer.gaps_s) > PAUSE_S for answer in answers)
        assert "no answer from all ranks within 1 s" in there.gateway.log
