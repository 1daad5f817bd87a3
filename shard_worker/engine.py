"""One rank's engine: a plan in, this rank's records out. It holds what can be rebuilt and decides nothing."""

import os
import time

import torch

from common.arrays import F32, U32, from_wire, to_wire
from common.errors import Refused
from common.step_protocol import PROTOCOL_VERSION
from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.device import usable_device
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.gpu.selection import gpu_decoder
from shard_worker.memory import size_kv_cache
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.model.weights import load_model
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.selection import native_decoder
from shard_worker.parallel import RankGroup, form_group
from shard_worker.partition import Partition, partition
from shard_worker.plan import Bounds, Rows, read_rows
from shard_worker.sampling.records import LastStep, sample_records, score_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import fill_result
from shard_worker.settings import ShardSettings
from tandem.shard.v1 import shard_service_pb2 as pb

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine:
    """A loaded model, its KV cache and the open sequences. All calls come from one thread."""

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        part: Partition,
        group: RankGroup,
        info: pb.GetInfoResponse,
        native: NativeDecoder | GraphDecoder | None = None,
        sampler: GraphSampler | None = None,
    ) -> None:
        self.info = info
        self._model = model
        self._native = native
        self._sampler = sampler
        self._cache = cache
        self._vocabulary = part.vocabulary
        self._group = group
        self._sequences: dict[int, SequenceState] = {}
        self._last_step: LastStep | None = None
        self._dtype = DTYPES[info.dtype]
        self._device = torch.device(info.device)
        self._bounds = Bounds(
            num_blocks=info.num_blocks,
            block_size=info.block_size_tokens,
            vocabulary_size=model.vocabulary_size,
            context_length=info.context_length,
            max_step_tokens=info.max_step_tokens,
        )

    @classmethod
    def load(cls, settings: ShardSettings) -> "Engine":
        """Join the rank group and load this rank's slice of the checkpoint.

        Raises CheckpointError or SettingsError when the checkpoint or the settings cannot be used.
        """
        torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // settings.tp))
        device, dtype = usable_device(settings.device), DTYPES[settings.dtype]
        reader = CheckpointReader(settings.model)
        arch = reader.manifest.architecture
        quantization = reader.manifest.quantization
        part = partition(arch, settings.rank, settings.tp, quantization.group_size or 1)
        group = form_group(
            settings.rank,
            settings.tp,
            settings.rendezvous,
            device,
            settings.collective_timeout_s,
            settings.collectives,
        )
        path = ATTENTION_PATHS[settings.attention]
        model = load_model(reader, arch, part, group, path, dtype, device, quantization)
        num_blocks = size_kv_cache(settings, arch, part, dtype, device)
        cache = KVCache(
            arch.layers, num_blocks, settings.block_size_tokens, part.kv_heads.size, arch.head_dim, dtype, device
        )
        native = native_decoder(settings.native, settings.attention, model, cache, part)
        on_gpu = gpu_decoder(settings.gpu_kernels, settings.attention, model, cache, part)
        info = pb.GetInfoResponse(
            protocol_version=PROTOCOL_VERSION,
            epoch=group.epoch,
            rank=settings.rank,
            world_size=settings.tp,
            checkpoint_hash=reader.hash,
            block_size_tokens=settings.block_size_tokens,
            num_blocks=num_blocks,
            vocabulary_first=part.vocabulary.start,
            vocabulary_size=part.vocabulary.size,
            max_step_tokens=settings.max_step_tokens,
            context_length=arch.context_length,
            dtype=settings.dtype,
            device=str(device),
            quantization=quantization.mode,
        )
        if on_gpu is not None:
            return cls(model, cache, part, group, info, on_gpu.decoder, on_gpu.sampler)
        return cls(model, cache, part, group, info, native)

    def reset(self) -> None:
        """Forget every sequence: a gateway has attached."""
        self._sequences.clear()
        self._last_step = None

    @torch.inference_mode()
    def step(self, plan: pb.Plan, read_ns: int) -> pb.StepResult:
        """Run one plan; `read_ns` is when its frame was read. Raises Refused (BAD_PLAN) before anything is run."""
        began_ns = time.perf_counter_ns()
        rows = read_rows(plan, self._bounds)
        self._open_and_close(plan, rows)
        hidden_PM = self._hidden(rows)
        result = pb.StepResult()
        self._sample(rows, plan, hidden_PM, result)
        self._score(rows, plan, hidden_PM, result)
        collective_ns = self._group.take_collective_ns()
        computed_ns = time.perf_counter_ns()
        result.queue_ns = began_ns - read_ns
        result.collective_ns = collective_ns
        result.compute_ns = computed_ns - began_ns - collective_ns
        result.encode_ns = time.perf_counter_ns() - computed_ns
        return result

    def resolve(self, position: int) -> pb.Resolved:
        """Return the whole slice at one sampled position of the last step. Raises Refused when there is none."""
        if self._last_step is None:
            raise Refused("BAD_PLAN", "the last step sampled nothing")
        whole = self._last_step.resolve(position)
        return pb.Resolved(
            first_id=whole.first_id,
            processed=to_wire(whole.processed.cpu().numpy(), F32),
            scores=to_wire(whole.scores.cpu().numpy(), F32),
            raw=to_wire(whole.raw.cpu().numpy(), F32),
        )

    def close(self) -> None:
        """Leave the group."""
        self._group.close()

    def _open_and_close(self, plan: pb.Plan, rows: Rows) -> None:
        for sequence in from_wire(plan.closes, U32, (-1,), "closes").tolist():
            self._sequences.pop(sequence, None)
        for opening in plan.opens:
            if opening.sequence in self._sequences:
                raise Refused("BAD_PLAN", f"sequence {opening.sequence} is open already")
            self._sequences[opening.sequence] = SequenceState.open(opening)
        unknown = [s for s in rows.sequences_R.tolist() if s not in self._sequences]
        if unknown:
            raise Refused("BAD_PLAN", f"sequences {unknown} were not opened")
        starts_R = rows.starts_R.tolist()
        for row, sequence in enumerate(rows.sequences_R.tolist()):
            ids = rows.ids_N[starts_R[row] : starts_R[row] + int(rows.lengths_R[row])]
            self._sequences[sequence].write(int(rows.base_lengths_R[row]), ids)

    def _hidden(self, rows: Rows) -> torch.Tensor:
        """Run the model and return the hidden state of the reported tokens, float32[P, M]."""
        native = self._native if self._native is not None and self._native.takes(len(rows.ids_N)) else None
        device = self._device if native is None else native.input_device
        inputs = build_inputs(rows, self._bounds.block_size, self._dtype, device, with_buckets=native is None)
        hidden_PM: torch.Tensor = self._model(inputs, self._cache) if native is None else native(inputs)
        return hidden_PM

    def _logits(self, hidden_PM: torch.Tensor) -> torch.Tensor:
        if self._native is not None and self._native.takes(len(hidden_PM)):
            return self._native.logits(hidden_PM)
        return self._model.logits(hidden_PM)

    def _sample(self, rows: Rows, plan: pb.Plan, hidden_PM: torch.Tensor, result: pb.StepResult) -> None:
        """Fill in the records of the sampled positions, which come first among the reported ones."""
        states: list[SequenceState] = []
        positions: list[int] = []
        ends_R = (rows.base_lengths_R + rows.lengths_R).tolist()
        for row, count in enumerate(rows.sampled_R.tolist()):
            states += [self._sequences[int(rows.sequences_R[row])]] * count
            # A row's last token, at position end - 1, draws the token at position `end`.
            positions += range(ends_R[row] - count + 1, ends_R[row] + 1)
        if not states:
            self._last_step = None
            return
        sampled_PM, lengths = hidden_PM[: len(states)], (plan.num_noised, plan.num_top, plan.num_raw)
        if self._sampler is not None and self._sampler.takes(states):
            records, self._last_step = self._sampler(sampled_PM, states, positions, *lengths)
        else:
            logits_PV = self._logits(sampled_PM)
            first_id = self._vocabulary.start
            records, self._last_step = sample_records(logits_PV, states, positions, first_id, *lengths)
        fill_result(result, records)

    def _score(self, rows: Rows, plan: pb.Plan, hidden_PM: torch.Tensor, result: pb.StepResult) -> None:
        """Fill in the records of the scored positions, which come last among the reported ones."""
        if not len(rows.scored_ids_S):
            return
        hidden_SM = hidden_PM[len(hidden_PM) - len(rows.scored_ids_S) :]
        records = score_records(
            lambda start, stop: self._logits(hidden_SM[start:stop]),
            torch.from_numpy(rows.scored_ids_S.copy()),
            self._vocabulary.start,
            plan.num_scored_raw,
        )
        fill_result(result, records)
