"""`tandem perplexity` against transformers on the same weights."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.cli.main import run
from common.commands.perplexity import spread_windows
from tests.support.cluster import Cluster
from tests.support.reference import reference_logits
from tests.support.tiny_model import TinyModel

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 5


def expected_perplexity(model: TinyModel, windows: Sequence[Sequence[int]]) -> float:
    losses = []
    for ids in windows:
        logprobs = reference_logits(model.reference, ids).double().log_softmax(dim=1)
        losses += [-logprobs[at, id].item() for at, id in enumerate(ids[1:])]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("options", [[], ["--window", "50"], ["--window", "50", "--max-tokens", "149"]])
def test_it_is_that_of_transformers(
    tiny_cluster: Cluster,
    tiny_model: TinyModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    assert run(["perplexity", str(tmp_path / "text.txt"), "--address", tiny_cluster.address, *options]) == 0
    out = capsys.readouterr().out
    from tandem.v1 import inference_service_pb2 as pb

    ids = list(tiny_cluster.stub.Tokenize(pb.TokenizeRequest(text=TEXT)).token_ids)
    starts = {0: [0], 2: range(0, 300, 50), 4: [0, 150]}[len(options)]
    size = 50 if options else len(ids)
    expected = expected_perplexity(tiny_model, [ids[at : at + size] for at in starts])
    assert float(out.split()[0]) == pytest.approx(expected, rel=1e-3)
    assert "float32, quantization none)" in out


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


def test_windows_are_spread_and_whole() -> None:
    ids = list(range(105))
    assert [w[0] for w in spread_windows(ids, 10, None)] == list(range(0, 100, 10))
    assert [w[0] for w in spread_windows(ids, 10, 39)] == [0, 30, 60]
    assert [len(w) for w in spread_windows(ids, 10, 5)] == [10]
    assert [len(w) for w in spread_windows(ids[:9], 10, 5)] == [9]
    assert list(spread_windows(ids[:1], 10, None)) == []
