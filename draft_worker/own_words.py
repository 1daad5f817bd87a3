"""What a draft writes by itself, from any token on: texts as it will draft them, without a corpus."""

import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from draft_worker.load_model import load_model_proposer
from draft_worker.proposer import Ask, Draft
from draft_worker.settings import DraftSettings
from draft_worker.text import Drawing, Ids, Key, Text
from shard_worker.checkpoint.reader import Progress
from tandem.draft.v1 import draft_service_pb2 as pb


def own_words(folder: Path, num_texts: int, length: int, threads: int | None, progress: Progress) -> Tensor:
    """Return int64[num_texts, n]: texts that the draft in `folder` drew at temperature 1, each from a token at random.

    n is `length`, or the model's context where that is shorter. The same model and arguments give the same texts.
    Raises CheckpointError or SettingsError when the draft cannot be used.
    """
    settings = DraftSettings(
        model=folder,
        threads=threads,
        run_ahead=False,
        temperature_factor=1.0,
        max_step_rows=num_texts,
        kv_cache_tokens=num_texts * (length + DraftSettings().block_size_tokens),
    )
    proposer = load_model_proposer(settings, folder, is_screened=False)
    length = min(length, proposer.about.context_length)
    first_ids = random.Random(0).choices(range(proposer.about.vocabulary_size), k=num_texts)
    for index, id in enumerate(first_ids):
        sampling = pb.Sampling(temperature=1.0, seed=index, repetition_penalty=1.0, top_p=1.0)
        text = Text(Key(0, index), 1, np.array([id], dtype=np.int32), Drawing(sampling, 1, ""))
        proposer.open(text)
        proposer.ask(Ask(text, 1, length - 1, time.perf_counter_ns(), None))
    written: dict[int, Ids] = {}
    while len(written) < num_texts:
        drafts = proposer.work()
        assert drafts is not None
        written |= {draft.ask.text.key.request: _ids(draft) for draft in drafts}
        progress("writing texts", len(written), num_texts)
    return torch.stack([torch.from_numpy(written[index]).long() for index in range(num_texts)])


def _ids(draft: Draft) -> Ids:
    text = draft.ask.text
    text.commit(text.length, np.array([token.id for token in draft.tokens], dtype=np.int32))
    return text.ids
