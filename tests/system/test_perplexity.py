"""`tandem perplexity` against transformers on the same weights."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from common.cli.main import run
from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Cluster
from tests.support.reference import load_reference, reference_logits
from tests.support.tiny_model import TinyModel

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 5
PROSE = """
The lighthouse stood at the end of a long spit of sand, and for most of the year nobody walked out to it but the keeper.
He had come there as a young man, meaning to stay for a single winter, and had found that he liked the quiet. Each
evening he climbed the hundred and twelve steps, wiped the salt from the glass, and lit the lamp; each morning he put it
out again and wrote a line about the weather in a book. When the books were full he sent them to the harbour office,
where they were stacked in a cupboard and forgotten.

One spring a student of meteorology asked whether there were any old records of storms along this coast. The clerk
remembered the cupboard. There were forty-one volumes, and in all of them not one day was missing. The student read for
three weeks. She learned how often the wind turned before rain, how the fog came in after warm nights, and how the
winters had slowly grown milder. She also learned that on the fourth of March 1962 the keeper had seen a whale, that in
1970 he had bought a dog, and that the dog was afraid of thunder. Her paper was printed in a respected journal. At the
end of it she thanked a man whom she had never met, who by then had been retired for many years.
"""


def expected_perplexity(model: PreTrainedModel, ids: Sequence[int], window: int, stride: int) -> float:
    """transformers' guide to perplexity of fixed-length models, term by term."""
    losses, previous_end = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = ids[begin:end]
        logprobs = reference_logits(model, inputs).double().log_softmax(dim=1)
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
    assert float(out.split()[0]) == pytest.approx(
        expected_perplexity(tiny_model.reference, ids, window, stride), rel=1e-3
    )
    assert "float32, quantization none)" in out


def test_that_of_a_real_model_is_too(
    smollm_cluster: Cluster, embedded_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(PROSE)
    ids = list(smollm_cluster.stub.Tokenize(pb.TokenizeRequest(text=PROSE)).token_ids)
    assert 200 < len(ids) < 600
    reference = load_reference(embedded_model)
    for options, window, stride in ([], len(ids), len(ids)), (["--window", "128", "--stride", "80"], 128, 80):
        command = ["perplexity", str(tmp_path / "text.txt"), "--address", smollm_cluster.address, "--json", *options]
        assert run(command) == 0
        found = json.loads(capsys.readouterr().out)["perplexity"]
        assert found == pytest.approx(expected_perplexity(reference, ids, window, stride), rel=1e-3)


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
