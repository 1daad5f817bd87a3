"""From settings to the proposer that they name."""

from common.errors import SettingsError
from draft_worker.ngram_proposer import NgramProposer
from draft_worker.proposer import Proposer
from draft_worker.settings import DraftSettings


def load_proposer(settings: DraftSettings) -> Proposer:
    """Load what proposes. Raises CheckpointError or SettingsError when that cannot be."""
    if settings.proposer == "ngram":
        if settings.model is not None:
            raise SettingsError("--proposer ngram takes no --model")
        return NgramProposer()
    if settings.model is None:
        raise SettingsError("--model (or TANDEM_DRAFT_MODEL, or model in the --config file) is needed")
    from draft_worker.load_model import load_model_proposer  # brings torch, which n-grams do without

    return load_model_proposer(settings, settings.model)
