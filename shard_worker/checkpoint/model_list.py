"""All known models with their sizes, and which of them this machine could hold. No torch in here."""

from collections.abc import Iterable
from dataclasses import dataclass

from common.errors import CheckpointError
from common.machine_memory import Machine
from common.model_store import EMBEDDED_MODEL, is_stored, model_folder, stored_names
from shard_worker.checkpoint.catalog import KnownModel
from shard_worker.sizing import FORMATS, RankMemory, parameters, rank_memory, stated_quantization, stored_bytes

TENSOR_PARALLEL = (1, 2, 4, 8)
# What a rank's process takes besides: PyTorch itself, a step's intermediate values. On a GPU, the share that
# `shard_worker.memory` leaves unused as well.
PROCESS_BYTES = 500 << 20
GPU_SHARE = 0.85


@dataclass(frozen=True)
class FormatSize:
    """A model in one format. `ranks` has an entry for each number of ranks that can share it."""

    form: str
    stored_bytes: int
    ranks: dict[int, RankMemory]
    fits: tuple[int, ...]  # with which numbers of ranks this machine holds it


@dataclass(frozen=True)
class ListedModel:
    """One line of the list. `stored` are the names under which the store has it."""

    name: str
    hub_ids: tuple[str, ...]
    form: str
    parameters: int
    context_length: int
    stored: tuple[str, ...]
    sizes: tuple[FormatSize, ...]


def list_models(models: Iterable[KnownModel], machine: Machine, context_tokens: int) -> list[ListedModel]:
    """Return all `models` with their sizes, the KV cache for one text of `context_tokens`, or the model's context."""
    return [_listed(model, machine, context_tokens) for model in models]


def _listed(model: KnownModel, machine: Machine, context_tokens: int) -> ListedModel:
    architecture = model.shape.architecture()
    context_tokens = min(context_tokens, architecture.context_length)
    sizes = []
    for form in FORMATS:
        quantization = stated_quantization(architecture, form)
        ranks = {}
        for tp in TENSOR_PARALLEL:
            try:
                ranks[tp] = rank_memory(architecture, quantization, tp, context_tokens)
            except CheckpointError:  # fewer heads or groups than ranks
                continue
        fits = tuple(tp for tp, memory in ranks.items() if machine_holds(machine, memory, tp))
        sizes.append(FormatSize(form, stored_bytes(architecture, quantization), ranks, fits))
    return ListedModel(
        name=model.name,
        hub_ids=model.hub_ids,
        form=model.form,
        parameters=parameters(architecture),
        context_length=architecture.context_length,
        stored=tuple(name for name in (model.name, *model.hub_ids) if is_stored(name)),
        sizes=tuple(sizes),
    )


def machine_holds(machine: Machine, memory: RankMemory, tp: int) -> bool:
    """Return whether all `tp` ranks fit: a GPU for each where there are GPUs, else together in main memory."""
    if machine.gpu_bytes:
        largest = sorted(machine.gpu_bytes, reverse=True)
        return tp <= len(largest) and memory.total_bytes + PROCESS_BYTES <= largest[tp - 1] * GPU_SHARE
    return machine.main_bytes is not None and memory.all_ranks_bytes + tp * PROCESS_BYTES <= machine.main_bytes


def other_stored(models: Iterable[ListedModel]) -> list[str]:
    """Return the names of the store's folders that belong to none of `models`, the embedded model first."""
    listed = {model_folder(name).name for model in models for name in model.stored}
    return sorted(set(stored_names()) - listed, key=lambda name: (name != EMBEDDED_MODEL, name))
