"""SIGTERM under load, to each kind of process in turn: streams go on token for token, and every process ends well."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from common.commands.listen_address import free_address
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.answers import Answer, generate_all, read_answer, text_request
from tests.support.fake_kubernetes import FakeKubernetes, pod
from tests.support.gateway_process import GatewayProcess, running_gateway
from tests.support.ranks import RankProcess, start_rank
from tests.support.step_client import StepStream
from tests.support.tiny_model import TinyModel

NUM_TOKENS = 450
DEADLINE_S = 60.0
REQUESTS = [
    text_request("the same story, the same story, the same", NUM_TOKENS),
    text_request("the same story", NUM_TOKENS, SamplingParams(temperature=0.9, top_p=0.9, seed=5)),
    text_request("another", NUM_TOKENS, SamplingParams(temperature=1.1, seed=6, frequency_penalty=0.3)),
]


class Streams:
    """All REQUESTS at once, read on threads of their own."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._counts = [0] * len(REQUESTS)
        self._threads = ThreadPoolExecutor(len(REQUESTS))
        self._futures: list[Future[Answer]] = [
            self._threads.submit(self._read, number, request) for number, request in enumerate(REQUESTS)
        ]

    def wait_for_tokens(self, more: int) -> None:
        """Wait until each has brought so many tokens more; none has ended then."""
        wanted = [count + more for count in self._counts]
        until(lambda: all(count >= least for count, least in zip(self._counts, wanted, strict=True)))
        assert not any(future.done() for future in self._futures)

    def answers(self) -> list[Answer]:
        """Return them whole."""
        with self._threads:
            return [future.result(2 * DEADLINE_S) for future in self._futures]

    def _read(self, number: int, request: pb.GenerateRequest) -> Answer:
        def events() -> Iterator[pb.GenerateResponse]:
            for event in self._gateway.client.stub.Generate(request, timeout=180):
                self._counts[number] += len(event.delta.token_ids)
                yield event

        return read_answer(events())


class Cluster:
    """Pods of ranks and of draft workers on addresses of their own, as a mock Kubernetes API lists them."""

    def __init__(self, api: FakeKubernetes, model: Path, work: Path) -> None:
        self._api, self._model, self._work = api, model, work
        self._port = int(free_address("127.0.0.1:0").rpartition(":")[2])
        self._pods: dict[str, dict[str, dict[str, Any]]] = {"verifiers": {}, "drafts": {}}
        self.processes: dict[str, RankProcess] = {}

    def start(self, service: str, name: str, number: int) -> None:
        """Start a pod, wait until it is ready and list it."""
        address, folder = f"127.0.1.{number}", self._work / name
        folder.mkdir()
        if service == "verifiers":
            process = start_rank(
                self._model,
                folder,
                listen=f"{address}:{self._port}",
                kv_cache_tokens=16_384,
                drain_budget_s=DEADLINE_S,
                module="tests.support.slow_rank",
            )
        else:
            process = RankProcess(f"{address}:{self._port}", folder / "log", ["--proposer", "ngram"], service="draft")
        self.processes[name] = process
        process.wait_serving()
        self._list(service, name, pod(name, address))

    def drain(self, service: str, name: str) -> None:
        """Do what happens to a pod that is deleted."""
        address = self.processes[name].address.rpartition(":")[0]
        self._list(service, name, pod(name, address, terminating=True))
        self.processes[name].signal(signal.SIGTERM)

    def gone(self, service: str, name: str) -> None:
        """Wait until it has ended, well, and list it no more."""
        assert self.processes[name].wait(DEADLINE_S) == 0
        del self._pods[service][name]
        self._api.set(service, self._pods[service].values(), self._port)

    def held_group(self) -> str:
        """Return the name of the group that a gateway holds."""
        for name in self._pods["verifiers"]:
            with StepStream(self.processes[name].address) as stream:
                if stream.info.held:
                    return name
        raise AssertionError("no group is held")

    def _list(self, service: str, name: str, endpoint: dict[str, Any]) -> None:
        self._pods[service][name] = endpoint
        self._api.set(service, self._pods[service].values(), self._port)


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@contextmanager
def scene(model: TinyModel) -> Iterator[tuple[Cluster, GatewayProcess]]:
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-test-")))
        api = stack.enter_context(FakeKubernetes(work))
        cluster = Cluster(api, model.folder, work)
        try:
            gateway = stack.enter_context(
                running_gateway(
                    model.folder,
                    [],
                    work,
                    groups="k8s:///llm/verifiers:grpc",
                    drafts="k8s:///llm/drafts:grpc",
                    kubernetes_api=api.url,
                    kubernetes_credentials=api.credentials,
                    allow_plaintext=True,
                    draft_length="fixed",
                    drain_budget_s=DEADLINE_S,
                )
            )
            yield cluster, gateway
        except BaseException as error:
            for name, process in cluster.processes.items():
                error.add_note(f"log of {name}:\n{process.log}")
            raise
        finally:
            for process in cluster.processes.values():
                process.kill()


def test_draft_group_and_gateway_are_drained_in_turn_under_load(tiny_model: TinyModel) -> None:
    with scene(tiny_model) as (cluster, gateway):
        cluster.start("verifiers", "group-a", 1)
        cluster.start("verifiers", "group-b", 2)
        cluster.start("drafts", "draft-a", 3)
        cluster.start("drafts", "draft-b", 4)
        gateway.wait_serving()
        until(lambda: gateway.log.count("is there: ") == 2)
        first = cluster.held_group()
        expected = [answer.ids for answer in generate_all(gateway.client.stub, REQUESTS)]

        streams = Streams(gateway)
        streams.wait_for_tokens(20)
        cluster.drain("drafts", "draft-a")
        cluster.gone("drafts", "draft-a")
        streams.wait_for_tokens(20)

        cluster.drain("verifiers", first)
        cluster.gone("verifiers", first)  # the gateway has left it: nothing else lets it end before its budget
        streams.wait_for_tokens(20)
        assert gateway.serving and "rank group lost" not in gateway.log

        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_serving(False)
        streams.wait_for_tokens(1)
        answers = streams.answers()
        assert gateway.process.wait(DEADLINE_S) == 0
        assert [answer.ids for answer in answers] == expected
        for process in cluster.processes.values():
            process.signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0  # at once, with nobody there
