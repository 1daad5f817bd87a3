"""Do the metrics of a running cluster say what its clients saw, and is there what rules and dashboard ask for?"""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from common.cli.main import tandem
from common.commands.listen_address import free_address
from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import Answer, generate_all, text_request
from tests.support.cluster import Cluster, running_cluster
from tests.support.promtool import run_promtool
from tests.support.tiny_model import TinyModel

WAIT_S = 60.0
FILES = Path(__file__).parents[2] / "helm" / "files"
REPEATING = "one two three four one two three four one two three four "
Values = dict[str, dict[tuple[tuple[str, str], ...], float]]


class Watched:
    """A cluster of a gateway, two ranks and a draft worker, and where each serves its metrics."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        found = re.findall(r"^\[(\w+ ?\d*)\] .* metrics on http://(\S+)/metrics$", cluster.log, re.MULTILINE)
        self.addresses = dict(found)
        (self.told,) = re.findall(r"^METRICS (\S+)$", cluster.log, re.MULTILINE)

    def page(self, process: str = "gateway") -> str:
        """Return what a process serves now."""
        with urllib.request.urlopen(f"http://{self.addresses[process]}/metrics", timeout=WAIT_S) as answer:
            text: str = answer.read().decode()
        return text

    def values(self, process: str = "gateway") -> Values:
        """Return all numbers by name and labels, but for the model's name."""
        values: Values = {}
        for family in text_string_to_metric_families(self.page(process)):
            for sample in family.samples:
                labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "model_name"))
                values.setdefault(sample.name, {})[labels] = sample.value
        return values

    def settled(self, is_settled: Callable[[Values], bool], process: str = "gateway") -> Values:
        """Return the numbers once they are as expected; what ends a request is counted just after its last message."""
        until_s = time.monotonic() + WAIT_S
        while not is_settled(values := self.values(process)):
            assert time.monotonic() < until_s, values
            time.sleep(0.05)
        return values


@pytest.fixture(scope="module")
def watched(tiny_model: TinyModel) -> Iterator[Watched]:
    """The tiny model on two ranks with a worker that drafts from the text."""
    with running_cluster(
        model=tiny_model.folder,
        tp=2,
        dtype="float32",
        kv_cache_tokens=16384,
        draft="ngram",
        metrics_listen=free_address("127.0.0.1:0"),
        gateway=("draft_length=fixed", "ngram=false"),
        shard="metrics_listen=127.0.0.1:0",
        draft_worker="metrics_listen=127.0.0.1:0",
    ) as cluster:
        yield Watched(cluster)


def total(values: Values, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for series, value in values.get(name, {}).items() if wanted <= set(series))


def load(watched: Watched) -> list[Answer]:
    """Put a load on the cluster: streams with and without drafts, some alike, so that prompts are found again."""
    plain = [text_request(f"prompt {number}", max_tokens=8 + number) for number in range(4)]
    again = [text_request(REPEATING * 3, max_tokens=24) for _ in range(3)]
    answers = generate_all(watched.cluster.stub, plain)
    for request in again:
        answers += generate_all(watched.cluster.stub, [request])
    return answers


def test_counts_are_what_the_clients_saw(watched: Watched) -> None:
    before = watched.values()
    answers = load(watched)
    tokens = [len(answer.ids) for answer in answers]

    def all_told(values: Values) -> bool:
        names = ("tandem_request_finished_total", "tandem_rpc_calls_total", "tandem_generation_tokens_total")
        grown = [total(values, name) - total(before, name) for name in names]
        return grown == [len(answers), len(answers), sum(tokens)]

    after = watched.settled(all_told)

    def grown(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert grown("tandem_rpc_calls_total", method="Generate", code="OK") == len(answers)
    reasons = [pb.FinishReason.Name(a.finished.reason).removeprefix("FINISH_REASON_").lower() for a in answers]
    for reason in set(reasons):
        assert grown("tandem_request_finished_total", reason=reason) == reasons.count(reason)
    assert tokens == [answer.usage.completion_tokens for answer in answers]
    assert grown("tandem_request_generation_tokens_sum") == sum(tokens)
    assert grown("tandem_prompt_tokens_total") == sum(answer.usage.prompt_tokens for answer in answers)
    hits = sum(answer.usage.cached_prompt_tokens for answer in answers)
    assert grown("tandem_prefix_cache_hit_tokens_total") == hits > 0
    reports = [answer.finished.speculation for answer in answers]
    assert grown("tandem_speculation_draft_tokens_total") == sum(report.drafted for report in reports) > 0
    assert grown("tandem_speculation_accepted_tokens_total") == sum(report.accepted for report in reports)
    for position in range(2):
        accepted = sum(r.accepted_at[position] for r in reports if len(r.accepted_at) > position)
        assert grown("tandem_speculation_accepted_tokens_total", position=str(position)) == accepted
    for once in ("time_to_first_token", "request_duration", "request_queue_time", "request_decode_time"):
        assert grown(f"tandem_{once}_seconds_count") == len(answers), once
    first_s = sum(answer.finished.timings.time_to_first_token_ns for answer in answers) * 1e-9
    assert grown("tandem_time_to_first_token_seconds_sum") == pytest.approx(first_s, rel=1e-6)
    # A token that a step adds to a stream waits for the one before it, the first one for none.
    assert grown("tandem_inter_token_latency_seconds_count") == sum(tokens) - len(answers)
    steps = grown("tandem_step_round_trip_seconds_count")
    for rank in ("0", "1"):
        assert grown("tandem_step_duration_seconds_count", rank=rank) == steps > 0
    assert grown("tandem_step_duration_seconds_count", phase="verify") > 0
    assert total(after, "tandem_requests_running") == total(after, "tandem_requests_waiting") == 0


def test_ranks_and_draft_workers_tell_the_same_story(watched: Watched) -> None:
    load(watched)
    for rank in range(2):

        def agrees(values: Values) -> bool:
            gateway = watched.values()
            pairs = [
                ("tandem_shard_step_duration_seconds_count", "tandem_step_round_trip_seconds_count"),
                ("tandem_shard_tokens_total", "tandem_step_tokens_sum"),
            ]
            return all(total(values, own) == total(gateway, told) > 0 for own, told in pairs)

        values = watched.settled(agrees, f"rank {rank}")
        assert total(values, "tandem_shard_ready", rank=str(rank)) == 1
    gateway = watched.values()
    draft = watched.values("draft 0")
    drafted = total(gateway, "tandem_speculation_draft_tokens_total", source="worker")
    assert total(draft, "tandem_draft_worker_proposed_tokens_total") >= drafted > 0
    assert total(draft, "tandem_draft_worker_proposals_total", outcome="proposed") > 0


def test_errors_and_cancellations_are_told_apart(watched: Watched) -> None:
    before = watched.values()
    stub = watched.cluster.stub
    with pytest.raises(grpc.RpcError):
        list(stub.Generate(pb.GenerateRequest(text="a", model="no-such-model")))
    stream = stub.Generate(text_request("on and on", max_tokens=3000))
    next(stream)
    running = watched.settled(lambda values: total(values, "tandem_requests_running") == 1)
    assert 0 < total(running, "tandem_kv_utilization_ratio") < 1
    stream.cancel()
    calls = "tandem_rpc_calls_total"
    after = watched.settled(lambda values: total(values, calls) - total(before, calls) == 2)
    assert total(after, "tandem_kv_blocks") == 1024
    for name, labels in (
        ("tandem_request_finished_total", {"reason": "cancelled"}),
        ("tandem_rpc_calls_total", {"method": "Generate", "code": "CANCELLED"}),
        ("tandem_rpc_calls_total", {"method": "Generate", "code": "NOT_FOUND"}),
    ):
        assert total(after, name, **labels) - total(before, name, **labels) == 1, (name, labels)


def test_prometheus_takes_every_page(watched: Watched) -> None:
    load(watched)
    assert set(watched.addresses) == {"gateway", "rank 0", "rank 1", "draft 0"}
    assert watched.addresses["gateway"] == watched.told
    for process in watched.addresses:
        checked = run_promtool("check", "metrics", stdin=watched.page(process))
        assert checked.returncode == 0, f"{process}: {checked.stdout}{checked.stderr}"


def test_what_is_asked_for_is_there(watched: Watched) -> None:
    """Every metric of rules, alerts and dashboard is in a scrape, and every label they ask for with it."""
    load(watched)
    present = {name for process in watched.addresses for name in watched.values(process)}
    recorded = set()
    queries = [
        t["expr"] for p in json.loads((FILES / "dashboard.json").read_text())["panels"] for t in p.get("targets", [])
    ]
    for path in sorted((FILES / "rules").glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            recorded |= {rule["record"] for rule in group["rules"] if "record" in rule}
            queries += [rule["expr"] for rule in group["rules"]]
    queries.append((FILES.parent / "templates" / "_metrics.tpl").read_text().replace("%s", "draft"))
    asked = {name for query in queries for name in re.findall(r"\btandem[_:][a-z0-9_:]+", query)}
    asked -= {name for name in asked if name in recorded}
    assert len(asked) > 40
    assert asked <= present, asked - present


def test_no_text_of_a_caller_is_in_a_metric(watched: Watched) -> None:
    canary = "canary-4711"
    request = text_request(canary, max_tokens=4)
    request.request_id = canary
    request.stopping.stop_strings.append(canary)
    generate_all(watched.cluster.stub, [request])
    with pytest.raises(grpc.RpcError):
        list(watched.cluster.stub.Generate(pb.GenerateRequest(text="a", model=canary)))
    for process in watched.addresses:
        assert canary not in watched.page(process)


def test_top_shows_the_load(watched: Watched) -> None:
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            load(watched)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        flags = ["top", "--metrics", watched.told, "--once", "--json"]
        until_s = time.monotonic() + WAIT_S
        while True:
            shown = json.loads(CliRunner().invoke(tandem, flags).output)
            if (shown["tokens_per_s"] and shown["acceptance"] is not None) or time.monotonic() > until_s:
                break
    finally:
        stop.set()
        busy.join()
    assert shown["tokens_per_s"] > 0 and shown["inter_token_latency"]["p50_s"] > 0
    assert [rank["rank"] for rank in shown["ranks"]] == [0, 1]
    # Where the machine is slow, a worker may be resting.
    assert sum(shown["draft_workers"].values()) == 1 and shown["groups_attached"] == 1
