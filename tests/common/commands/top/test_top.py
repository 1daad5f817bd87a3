"""Does `tandem top` show what gateways' metrics say?"""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from common.cli.main import tandem
from common.commands.top.figures import figures, quantile
from common.commands.top.scrape import GATEWAY, Sample, Scrape, parse
from common.commands.top.view import lines
from common.errors import Unavailable
from common.telemetry.metrics import Metrics
from common.telemetry.metrics_http import MetricsServer


def look(text: str, at_s: float) -> Scrape:
    """Return a look at one gateway that serves these lines."""
    samples: dict[str, tuple[Sample, ...]] = {}
    for sample in parse(text, "here"):
        named = replace(sample, labels={**sample.labels, GATEWAY: "0"})
        samples[sample.name] = (*samples.get(sample.name, ()), named)
    return Scrape(at_s, samples)


BEFORE = """\
tandem_generation_tokens_total{model_name="m"} 100
tandem_requests_running{model_name="m"} 1
tandem_rank_time_seconds_total{rank="0",part="compute"} 1
tandem_rank_time_seconds_total{rank="1",part="compute"} 1
"""
AFTER = """\
tandem_generation_tokens_total{model_name="m"} 160
tandem_requests_running{model_name="m"} 4
tandem_requests_waiting{model_name="m"} 2
tandem_kv_utilization_ratio{model_name="m"} 0.5
tandem_rank_group_attached{model_name="m"} 1
tandem_rpc_calls_total{method="Generate",code="OK"} 5
tandem_rpc_calls_total{method="Generate",code="INTERNAL"} 3
tandem_time_to_first_token_seconds_bucket{le="0.1"} 5
tandem_time_to_first_token_seconds_bucket{le="0.2"} 10
tandem_time_to_first_token_seconds_bucket{le="+Inf"} 10
tandem_speculation_draft_tokens_total{source="worker",position="0"} 10
tandem_speculation_draft_tokens_total{source="worker",position="1"} 10
tandem_speculation_accepted_tokens_total{source="worker",position="0"} 8
tandem_speculation_accepted_tokens_total{source="worker",position="1"} 4
tandem_speculation_rounds_total{source="worker"} 10
tandem_draft_workers{state="ready"} 2
tandem_draft_workers{state="missing"} 0
tandem_step_duration_seconds_sum{phase="decode",rank="0"} 2
tandem_step_duration_seconds_count{phase="decode",rank="0"} 100
tandem_rank_time_seconds_total{rank="0",part="compute"} 2
tandem_rank_time_seconds_total{rank="0",part="collective"} 3
tandem_rank_time_seconds_total{rank="1",part="compute"} 4
tandem_rank_time_seconds_total{rank="1",part="collective"} 1
"""


def test_figures_are_what_grew() -> None:
    before, after = look(BEFORE, 10.0), look(AFTER, 12.0)
    found = figures(after, before, before)
    assert (found.model, found.tokens_per_s, found.running, found.waiting) == ("m", 30, 4, 2)
    assert found.failed_calls_per_s == 1.5
    assert found.kv_utilization == 0.5
    assert found.time_to_first_token is not None
    assert found.time_to_first_token.p50_s == pytest.approx(0.1)
    assert found.time_to_first_token.p95_s == pytest.approx(0.19)
    assert found.inter_token_latency is None and found.queue_time is None
    assert found.acceptance == pytest.approx(0.6)
    assert found.acceptance_at == [0.8, 0.4]
    assert found.tokens_per_round == pytest.approx(2.2)
    assert found.draft_workers == {"ready": 2}
    assert found.groups_attached == 1
    first, second = found.ranks
    assert first.step_s == {"decode": 0.02}
    assert first.compute_share == pytest.approx(0.25) and not first.is_straggler
    assert second.compute_share == pytest.approx(0.75) and second.is_straggler


def test_the_view_marks_the_straggler() -> None:
    text = "\n".join(lines(figures(look(AFTER, 12.0), look(BEFORE, 10.0), look(BEFORE, 10.0)), "here"))
    assert "30.0 generated" in text and "60% accepted   by position 80% 40%" in text
    marked = [line for line in text.splitlines() if "straggler" in line]
    assert len(marked) == 1 and marked[0].startswith("1 ")
    assert [line for line in text.splitlines() if line.startswith("0 ") and "20.0 ms" in line]


def test_nothing_yet_is_no_error() -> None:
    empty = look("", 1.0)
    found = figures(empty, empty, empty)
    assert found.time_to_first_token is None and found.ranks == []
    assert any("no step was run" in line for line in lines(found, "here"))


def test_a_gateway_that_restarts_counts_from_nothing() -> None:
    fallen = look('tandem_generation_tokens_total{model_name="m"} 40\n', 12.0)
    assert figures(fallen, look(BEFORE, 10.0), look(BEFORE, 10.0)).tokens_per_s == 20


def test_quantiles_are_those_of_prometheus() -> None:
    at_most = [(0.1, 2.0), (1.0, 4.0), (float("inf"), 8.0)]
    assert quantile(at_most, 0.25) == pytest.approx(0.1)
    assert quantile(at_most, 0.375) == pytest.approx(0.55)
    assert quantile(at_most, 0.95) == 1.0  # beyond every bound


def test_the_command_reads_every_gateway() -> None:
    first, second = Metrics({"model_name": "m"}), Metrics({"model_name": "m"})
    for metrics in (first, second):
        metrics.gauge("tandem.requests.running", "{request}", "Running.").of().set(3)
    with MetricsServer(first, "127.0.0.1:0") as one, MetricsServer(second, "127.0.0.1:0") as other:
        flags = ["--metrics", one.address, "--metrics", other.address, "--once", "--interval", "0.1"]
        as_json = CliRunner().invoke(tandem, ["top", *flags, "--json"])
        plain = CliRunner().invoke(tandem, ["top", *flags])
    assert json.loads(as_json.output)["running"] == 6
    assert "running               6" in plain.output and "\x1b" not in plain.output


def test_nobody_there_is_said() -> None:
    with MetricsServer(Metrics(), "127.0.0.1:0") as gone:
        pass
    ran = CliRunner().invoke(tandem, ["top", "--metrics", gone.address, "--once"], standalone_mode=False)
    assert ran.return_value == 1 and gone.address in ran.output


def test_a_page_without_metrics_is_refused() -> None:
    with pytest.raises(Unavailable, match="no metrics"):
        list(parse("<html>{</html>", "here"))
