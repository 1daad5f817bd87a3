"""`tandem perplexity` against transformers on the same weights."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.cli.main import run
from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Cluster
from tests.support.reference import reference_logits
from tests.support.tiny_model import TinyModel

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 5


def expected_perplexity(model: TinyModel, ids: Sequence[int], window: int, stride: int) -> float:
    """transformers' guide to perplexity of fixed-length models, term by term."""
    losses, previous_end = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = ids[begin:end]
        logprobs = reference_logits(model.reference, inputs).double().log_softmax(dim=1)
        targets = range(max(previous_end - begin, 1), len(inputs))
        losses += [-logprobs[at - 1, inputs[at]].item() for at in targets]
        previous_end = end
        if end == len(ids):
            break
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize(
    ("options", "window", "stride"),
    [([], 310, 310), (["--window", "50"], 50, 50), (["--window", "48", "--stride", "20"], 48, 20)],
)
def test_it_is_that_of_transformers(
    tiny_cluster: Cluster,
    tiny_model: TinyModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    window: int,
    stride: int,
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    assert run(["perplexity", str(tmp_path / "text.txt"), "--address", tiny_cluster.address, *options]) == 0
    out = capsys.readouterr().out
    ids = list(tiny_cluster.stub.Tokenize(pb.TokenizeRequest(text=TEXT)).token_ids)
    assert float(out.split()[0]) == pytest.approx(expected_perplexity(tiny_model, ids, window, stride), rel=1e-3)
    assert "float32, quantization none)" in out


def test_a_text_longer_than_a_request_may_be(
    tiny_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT * 4000
    assert len(text) > 1 << 20
    (tmp_path / "text.txt").write_text(text)
    options = ["--address", tiny_cluster.address, "--window", "50", "--max-tokens", "500", "--json"]
    assert run(["perplexity", str(tmp_path / "text.txt"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    # One token a byte: the tiny model's tokenizer knows bytes alone.
    assert found["text_bytes"] == found["text_tokens"] == len(text)
    assert found["tokens"] == 490
    assert found["perplexity"] == pytest.approx(math.exp(found["nats_per_token"]))
    assert found["bits_per_byte"] == pytest.approx(found["nats_per_token"] / math.log(2))


def test_what_cannot_be_scored_is_one_line(
    tiny_cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    for data, options, reason in (
        (b"", [], "text"),
        (b"\xff\xfe", [], "utf-8"),
        (b"x" * 5000, ["--window", "4097"], "context"),
    ):
        path.write_bytes(data)
        assert run(["perplexity", str(path), "--address", tiny_cluster.address, *options]) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err.splitlines()[-1][:7]) == ("", "Error: ")
        assert reason in captured.err
