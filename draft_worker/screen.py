"""A draft's head screen: the product of small rank whose rough logits find the head's best tokens.

The best one for the hidden states that a draft really has: not the head is approximated but its logits, in the mean
square over those states (data-aware low rank: Chen et al. 2021, "DRONE"), which at the same rank finds the best token
several times as often as the head's own singular vectors do.

Shapes: n positions, V tokens, K the head's inputs, r the screen's rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import CheckpointError
from common.manifest import read_manifest
from draft_worker.own_words import own_words
from draft_worker.text_logits import CHUNK_POSITIONS, TextModel
from shard_worker.checkpoint.reader import Progress
from shard_worker.model.head_screen import HeadScreen
from shard_worker.model.linear import FloatLinear, Int8Linear, Linear
from shard_worker.native.packing import BLOCK_COLUMNS, PANEL_ROWS
from shard_worker.quantization.formats import quantize_int8

CHUNK_ROWS = 4096
# Of the hidden states' mean square, so that directions which the texts lack are not blown up.
RIDGE = 1e-4
# One position in so many is kept to count on.
HELD_OUT = 4


@dataclass(frozen=True)
class Options:
    """How large the screen is to be, and on how many texts of the draft's own it is made."""

    rank: int
    num_panels: int
    num_texts: int = 16
    text_tokens: int = 512
    threads: int | None = None


@dataclass(frozen=True)
class Made:
    """A screen, the hash of the checkpoint that it is for, and the share of best tokens that it found."""

    screen: HeadScreen
    checkpoint_hash: str
    found: float


def make_screen(folder: Path, options: Options, progress: Progress) -> Made:
    """Return a screen for the draft in `folder`. Raises CheckpointError or SettingsError when it cannot be made."""
    arch = read_manifest(folder)[0].architecture
    if arch.head_size is not None:
        raise CheckpointError(f"{folder} is trimmed: its head has few rows already")
    if options.rank % BLOCK_COLUMNS or not options.rank < arch.hidden_size:
        raise CheckpointError(
            f"a rank of {options.rank} is no multiple of {BLOCK_COLUMNS} below the hidden size, {arch.hidden_size}"
        )
    if not 2 * options.num_panels * PANEL_ROWS < arch.vocabulary_size:
        raise CheckpointError(
            f"{options.num_panels} panels of {PANEL_ROWS} rows are half of {arch.vocabulary_size} tokens or more"
        )
    model = TextModel(folder, torch.bfloat16, torch.device("cpu"), options.text_tokens)
    ids_Sn = own_words(folder, options.num_texts, options.text_tokens, options.threads, progress)
    states = []
    for index, ids_n in enumerate(ids_Sn):
        progress("reading them", index, len(ids_Sn))
        states.append(model.hidden(ids_n))
    progress("reading them", len(ids_Sn), len(ids_Sn))
    hidden_nK = torch.cat(states)
    held_out = torch.arange(len(hidden_nK)) % HELD_OUT == 0
    screen = best_screen(hidden_nK[~held_out], model.head, options.rank, options.num_panels)
    return Made(screen, model.hash, share_found(screen, hidden_nK[held_out], model.head))


@torch.inference_mode()
def best_screen(hidden_nK: Tensor, head: Linear, rank: int, num_panels: int) -> HeadScreen:
    """Return the screen with the least mean square error of its logits, over these hidden states, before rounding."""
    second_KK = (hidden_nK.T @ hidden_nK).double() / len(hidden_nK)
    second_KK += RIDGE * second_KK.diagonal().mean() * torch.eye(len(second_KK), dtype=torch.float64)
    values_K, vectors_KK = torch.linalg.eigh(second_KK)
    root_KK = vectors_KK * values_K.sqrt() @ vectors_KK.T
    gram_KK = sum((rows.T @ rows).double() for rows in _rows(head))
    directions_Kr = torch.linalg.eigh(root_KK @ gram_KK @ root_KK).eigenvectors[:, -rank:]
    up_Kr = (root_KK @ directions_Kr).float()
    down_rK = directions_Kr.T @ (vectors_KK * values_K.rsqrt() @ vectors_KK.T)
    q_Vr, scale_V = quantize_int8(torch.cat([rows @ up_Kr for rows in _rows(head)]))
    return HeadScreen(FloatLinear(down_rK.bfloat16()), Int8Linear(q_Vr, scale_V), num_panels)


@torch.inference_mode()
def share_found(screen: HeadScreen, hidden_nK: Tensor, head: Linear) -> float:
    """Return at which share of these positions the screen's panels hold the head's best token."""
    found = 0
    for hidden_PK in torch.split(hidden_nK, CHUNK_POSITIONS):
        best_P = torch.cat([hidden_PK @ rows.T for rows in _rows(head)], dim=1).argmax(dim=1)
        rough_PV = screen.up(screen.down(hidden_PK.bfloat16()).float())
        padded_PV = F.pad(rough_PV, (0, -rough_PV.shape[1] % PANEL_ROWS), value=-torch.inf)
        panels_Pn = padded_PV.view(len(padded_PV), -1, PANEL_ROWS).amax(dim=2).topk(screen.num_panels).indices
        found += int((panels_Pn == (best_P // PANEL_ROWS).unsqueeze(1)).any(dim=1).sum())
    return found / len(hidden_nK)


def _rows(head: Linear) -> Iterator[Tensor]:
    """Yield the head's rows, float32, some thousand at a time."""
    for ids in torch.split(torch.arange(head.out_features), CHUNK_ROWS):
        yield head.rows(ids, torch.float32)
