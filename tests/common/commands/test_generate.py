"""`tandem generate` as a process, against a fake gateway."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.common.conftest import FakeGatewayProcess

TANDEM = [sys.executable, "-m", "common.cli.main", "generate"]


def generate(address: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command_line = [*TANDEM, "--address", address, *arguments]
    return subprocess.run(command_line, input=stdin, capture_output=True, text=True, timeout=20, check=False)


def test_the_answer_is_the_only_thing_on_stdout(gateway: FakeGatewayProcess) -> None:
    result = generate(gateway.address, "hello", "--temperature", "0.5")
    assert (result.returncode, result.stdout, result.stderr) == (0, "You said hello\n", "")


def test_stdin_is_the_prompt_where_none_is_given(gateway: FakeGatewayProcess) -> None:
    assert generate(gateway.address, stdin="from stdin").stdout == "You said from stdin\n"


def test_stats_go_to_stderr(gateway: FakeGatewayProcess) -> None:
    result = generate(gateway.address, "hello", "--stats")
    assert result.stdout == "You said hello\n"
    assert "5 prompt tokens (1 cached), 3 generated, ended by end_of_text" in result.stderr
    assert "first token after 40.00 ms" in result.stderr
    assert "4.0 tokens/s" in result.stderr  # two tokens after the first, in half a second
    assert "3 steps, each: plan 0.10 ms" in result.stderr
    assert "rank 0, each step: queue 0.00 ms, compute 10.00 ms" in result.stderr
    assert "rank 1, each step: queue 0.00 ms, compute 0.00 ms, collective 1.00 ms" in result.stderr


def test_json_is_one_object_a_line(gateway: FakeGatewayProcess) -> None:
    result = generate(gateway.address, "hello", "--json", "--logprobs", "2")
    started, *deltas, finished = [json.loads(line) for line in result.stdout.splitlines()]
    assert (started["event"], started["seed"]) == ("started", 1 << 60)
    assert "".join(delta["text"] for delta in deltas) == "You said hello"
    assert deltas[0]["token_ids"] == [7]
    assert deltas[0]["logprobs"] == [{"logprob": -0.5, "top_ids": [0, 1], "top_logprobs": [-0.5, -0.5]}]
    assert (finished["event"], finished["finish_reason"], finished["stop_token_id"]) == ("finished", "end_of_text", 2)
    assert finished["usage"]["completion_tokens"] == 3
    assert finished["timings"]["ranks"][0]["compute_ns"] == 30_000_000
    without = generate(gateway.address, "hello", "--json")
    assert "logprobs" not in json.loads(without.stdout.splitlines()[1])


def test_the_prompt_is_a_turn_where_the_model_has_a_template(
    gateway: FakeGatewayProcess, gateway_without_template: FakeGatewayProcess
) -> None:
    generate(gateway.address, "as turn", "--system", "be kind")
    generate(gateway.address, "as text", "--no-chat")
    generate(gateway_without_template.address, "no template")
    deadline_s = time.monotonic() + 5
    while not any("as text" in line for line in gateway.log) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert "request chat ['system:be kind', 'user:as turn'] 0.0\n" in gateway.log
    assert "request text as text 0.0\n" in gateway.log
    assert "request text no template 0.0\n" in gateway_without_template.log


def test_a_system_turn_needs_a_template(gateway_without_template: FakeGatewayProcess) -> None:
    result = generate(gateway_without_template.address, "x", "--system", "be kind")
    assert result.returncode == 2
    assert "--system needs a chat template, which fake has not" in result.stderr


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("bad", "Error: invalid argument: sampling.temperature: must be at most 100\n"),
        ("busy", "Error: resource exhausted: the queue is full (try again in 2.5 s)\n"),
    ],
)
def test_errors_are_one_line(gateway: FakeGatewayProcess, prompt: str, line: str) -> None:
    result = generate(gateway.address, prompt)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", line)


def test_an_error_in_mid_answer_keeps_what_came(gateway: FakeGatewayProcess) -> None:
    result = generate(gateway.address, "break")
    assert (result.returncode, result.stdout) == (1, "You said break\n")
    assert result.stderr == "Error: unavailable: a rank is gone (try again in 1 s)\n"


@pytest.mark.usefixtures("usual_signals")
def test_ctrl_c_cancels_the_call(gateway: FakeGatewayProcess) -> None:
    process = subprocess.Popen(
        [*TANDEM, "--address", gateway.address, "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.read(10) == "tick tick "  # deltas come one by one
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert stdout.endswith("\n") and "Traceback" not in stderr
    deadline_s = time.monotonic() + 5
    while "cancelled\n" not in gateway.log and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert "cancelled\n" in gateway.log


def test_a_closed_pipe_is_quiet(gateway: FakeGatewayProcess) -> None:
    process = subprocess.Popen(
        [*TANDEM, "--address", gateway.address, "slow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.read(5)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(10) == 1
    assert stderr == ""
    process.stderr.close()


def test_no_server_is_one_line() -> None:
    start_s = time.monotonic()
    result = generate("127.0.0.1:1", "hello")
    assert time.monotonic() - start_s < 5
    assert result.returncode == 1
    assert result.stderr == "Error: no server answers at 127.0.0.1:1; `tandem up` starts one\n"


def test_a_server_that_says_nothing_is_one_line_within_5_s() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start_s = time.monotonic()
        result = generate(f"127.0.0.1:{silent.getsockname()[1]}", "hello")
        assert time.monotonic() - start_s < 5.5
    assert result.returncode == 1
    assert result.stderr.startswith("Error: no server answers at")


def test_logprobs_need_json(gateway: FakeGatewayProcess) -> None:
    result = generate(gateway.address, "hello", "--logprobs", "1")
    assert result.returncode == 2
    assert "--logprobs needs --json" in result.stderr
