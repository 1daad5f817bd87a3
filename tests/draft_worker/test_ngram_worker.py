"""A draft worker without a model: it starts without torch, takes any vocabulary, and knows what repeats."""

import subprocess
import sys

import pytest

from common.errors import SettingsError
from draft_worker.load import load_proposer
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.draft_stream import DraftStream, draft_process
from tests.support.drafting import commit, draft_settings, ids_of, open_
from tests.support.tiny_model import TinyModel


def test_it_proposes_what_followed_before() -> None:
    with draft_process(proposer="ngram") as worker, DraftStream(worker.address) as stream:
        info = stream.attach(vocabulary_hash="any", vocabulary_size=7)
        assert (info.proposer, info.vocabulary_hash, info.vocabulary_size) == ("ngram", "", 0)
        stream.tell(opens=[open_(1, [1, 2, 3, 4, 5, 6, 2])], commits=[commit(1, 1, 7, count=3)])
        (nothing,) = stream.proposals(1)
        assert (nothing.outcome, ids_of(nothing), nothing.match_length) == (pb.OUTCOME_PROPOSED, [], 0)
        stream.tell(commits=[commit(1, 2, 7, [3], count=3)])
        (found,) = stream.proposals(1)
        assert (ids_of(found), found.match_length, found.base_length) == ([4, 5, 6], 2, 8)
        stream.tell(opens=[open_(2, [10**9] * 3)], commits=[commit(2, 1, 3, count=2)])
        assert ids_of(stream.proposals(1)[0]) == [10**9] * 2


def test_it_needs_no_torch() -> None:
    source = (
        "import sys; import draft_worker.server; from draft_worker.load import load_proposer; "
        "from draft_worker.settings import DraftSettings; load_proposer(DraftSettings(proposer='ngram')); "
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_settings_that_name_no_proposer(tiny_model: TinyModel) -> None:
    with pytest.raises(SettingsError, match="--model"):
        load_proposer(draft_settings(None))
    with pytest.raises(SettingsError, match="takes no --model"):
        load_proposer(draft_settings(tiny_model.folder, proposer="ngram"))
