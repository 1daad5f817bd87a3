"""Calibration text becomes sequences of equal length, spread over it."""

from pathlib import Path

import pytest

from common.errors import CheckpointError
from shard_worker.checkpoint.sentencepiece_model import Piece, PieceType, serialise_bpe
from shard_worker.checkpoint.source import TokenizerSource
from shard_worker.quantization.calibration import SEQUENCE_TOKENS, calibration_ids, calibration_text
from tests.support.tiny_model import byte_tokenizer

BYTES = TokenizerSource("tokenizer_json", byte_tokenizer().to_str().encode(), bos_id=None)
BYTES_AFTER_BOS = TokenizerSource("tokenizer_json", BYTES.data, bos_id=256)
CONTEXT = 4096


def test_sequences_are_spread_over_the_text() -> None:
    text = "".join(chr(97 + at // SEQUENCE_TOKENS) for at in range(10 * SEQUENCE_TOKENS))
    ids_Sn = calibration_ids(text, BYTES, 5 * SEQUENCE_TOKENS, CONTEXT)
    assert ids_Sn.shape == (5, SEQUENCE_TOKENS)
    first = calibration_ids("a" * 16, BYTES, 16, CONTEXT)[0, 0]
    assert (ids_Sn[:, 0] - first).tolist() == [0, 2, 4, 6, 8]
    assert (ids_Sn == ids_Sn[:, :1]).all()


def test_every_sequence_begins_as_a_prompt_does() -> None:
    ids_Sn = calibration_ids("x" * 2000, BYTES_AFTER_BOS, 2000, CONTEXT)
    assert ids_Sn.shape == (3, SEQUENCE_TOKENS)
    assert ids_Sn[:, 0].tolist() == [256] * 3
    assert (ids_Sn[:, 1:] < 256).all()


@pytest.mark.parametrize(
    ("characters", "num_tokens", "context_length", "shape"),
    [
        (100, 9999, 4096, (1, 100)),
        (100, 40, 4096, (1, 40)),
        (100, 9999, 32, (3, 32)),
        (512 * 3 + 1, 99999, 4096, (3, 512)),
    ],
)
def test_what_is_scarce_sets_the_shape(
    characters: int, num_tokens: int, context_length: int, shape: tuple[int, int]
) -> None:
    assert calibration_ids("x" * characters, BYTES, num_tokens, context_length).shape == shape


def test_a_text_that_is_too_short_is_refused() -> None:
    for text in ("", "x" * 15):
        with pytest.raises(CheckpointError, match=f"a calibration of {len(text)} tokens is too short"):
            calibration_ids(text, BYTES, 1000, CONTEXT)


def test_sentencepiece_models_are_read() -> None:
    pieces = [Piece("<unk>", 0.0, PieceType.UNKNOWN)]
    pieces += [Piece(f"<0x{byte:02X}>", 0.0, PieceType.BYTE) for byte in range(256)]
    pieces += [Piece("▁", -1.0, PieceType.NORMAL), Piece("a", -2.0, PieceType.NORMAL)]
    data = serialise_bpe(pieces, 0, -1, -1, add_dummy_prefix=False, remove_extra_whitespaces=False)
    ids_Sn = calibration_ids("a" * 20, TokenizerSource("sentencepiece", data, bos_id=None), 20, CONTEXT)
    assert ids_Sn.tolist() == [[258] * 20]


def test_the_default_text_is_long_and_files_are_read(tmp_path: Path) -> None:
    assert len(calibration_text(None)) > 100_000
    path = tmp_path / "text.txt"
    path.write_text("grüße", encoding="utf-8")
    assert calibration_text(path) == "grüße"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="utf-8"):
        calibration_text(path)
    with pytest.raises(CheckpointError, match="No such file"):
        calibration_text(tmp_path / "absent")
