"""One rank's engine: a plan in, this rank's records out. It holds what can be rebuilt and decides nothing."""

import os
import time
from collections.abc import Sequence

import numpy as np
import torch

from common.arrays import F32, U32, from_wire, to_wire
from common.errors import Refused
from common.step_protocol import PROTOCOL_VERSION
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.continuation import ListLengths
from shard_worker.device import usable_device
from shard_worker.forward import Forward
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.gpu.selection import gpu_decoder
from shard_worker.memory import size_kv_cache
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.head_screen import HeadScreen
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.model.weights import load_model
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.sampler import NativeSampler
from shard_worker.native.selection import native_decoder
from shard_worker.parallel import RankGroup, form_group
from shard_worker.partition import Partition, partition
from shard_worker.passes import Passes
from shard_worker.plan import Bounds, Floats, RowReader, Rows
from shard_worker.run_ahead import AheadRows, RunAhead
from shard_worker.sampling.records import PackedRecords, Resolvable, score_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from shard_worker.settings import ShardSettings
from shard_worker.step_logits import first_drawn
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
        sampler: GraphSampler | NativeSampler | None = None,
    ) -> None:
        self.info = info
        self._vocabulary = part.vocabulary
        self._group = group
        self._forward = Forward(model, cache, native, DTYPES[info.dtype], torch.device(info.device))
        self._passes = Passes(self._forward, sampler, part.vocabulary.start)
        self._run_ahead = RunAhead(self._passes, group, self._forward.device)
        self._sequences: dict[int, SequenceState] = {}
        self._last_step: Resolvable | None = None
        self._read_rows = RowReader(
            Bounds(
                num_blocks=info.num_blocks,
                block_size=info.block_size_tokens,
                vocabulary_size=model.vocabulary_size,
                context_length=info.context_length,
                max_step_tokens=info.max_step_tokens,
            )
        )

    @classmethod
    def load(cls, settings: ShardSettings, screen: HeadScreen | None = None) -> "Engine":
        """Join the rank group and load this rank's slice of the checkpoint. `screen` is for a draft, which may err.

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
            settings.rendezvous_timeout_s,
        )
        path = ATTENTION_PATHS[settings.attention]
        model = load_model(reader, arch, part, group, path, dtype, device, quantization)
        model.screen = screen
        num_blocks = size_kv_cache(settings, arch, part, dtype, device)
        cache = KVCache(
            arch.layers, num_blocks, settings.block_size_tokens, part.kv_heads.size, arch.head_dim, dtype, device
        )
        native = native_decoder(settings.native, settings.attention, model, cache, part, settings.compact_weights)
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
            compact_saved_bytes=0 if native is None else native.compact_saved_bytes,
        )
        if on_gpu is not None:
            return cls(model, cache, part, group, info, on_gpu.decoder, on_gpu.sampler)
        return cls(model, cache, part, group, info, native, native.sampler if native is not None else None)

    def reset(self) -> None:
        """Forget every sequence: a gateway has attached."""
        self._sequences.clear()
        self._last_step = None
        self._run_ahead.clear()

    @torch.inference_mode()
    def step(self, plan: pb.Plan, read_ns: int) -> pb.StepResult:
        """Run one plan; `read_ns` is when its frame was read. Raises Refused (BAD_PLAN) before anything is run."""
        began_ns = time.perf_counter_ns()
        rows = self._read_rows(plan)
        states_R = self._open_and_close(plan, rows)
        if not states_R:
            return self._nothing_run(read_ns, began_ns)
        lengths, ahead_A = ListLengths(plan.num_noised, plan.num_top, plan.num_raw), np.flatnonzero(rows.run_ahead_R)
        ahead = self._run_ahead.take()
        drawn, used = first_drawn(self._passes, rows, states_R, lengths, ahead_A, ahead)
        while drawn.num_passes <= rows.num_continued:
            following = self._run_ahead.following(rows, np.arange(len(states_R)), drawn)
            self._write(following, states_R)
            drawn = drawn.then(self._passes.run(following, states_R, lengths, ahead_A), len(states_R))
        self._last_step = drawn.last_step
        scored = self._score(rows, plan, drawn.hidden_SM)
        result, computed_ns = pb.StepResult(), time.perf_counter_ns()
        for records in (drawn.records, *scored):
            records.fill(result)
        result.encode_ns = time.perf_counter_ns() - computed_ns
        self._run_ahead.note(rows, states_R, lengths, drawn, ahead_A)
        self._fill_times(result, read_ns, began_ns, used)
        return result

    def _nothing_run(self, read_ns: int, began_ns: int) -> pb.StepResult:
        """Return the answer to a plan that only closes sequences."""
        self._last_step = None
        self._run_ahead.clear()
        result = pb.StepResult()
        self._fill_times(result, read_ns, began_ns, None)
        return result

    @torch.inference_mode()
    def run_ahead(self) -> None:
        """Compute the rows that the last plan allowed to be run ahead, if any."""
        self._run_ahead.run()

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

    def _open_and_close(self, plan: pb.Plan, rows: Rows) -> list[SequenceState]:
        """Follow the plan's words about sequences, and return the rows' own."""
        for sequence in from_wire(plan.closes, U32, (-1,), "closes").tolist():
            self._sequences.pop(sequence, None)
        for opening in plan.opens:
            if opening.sequence in self._sequences:
                raise Refused("BAD_PLAN", f"sequence {opening.sequence} is open already")
            self._sequences[opening.sequence] = SequenceState.open(opening)
        sequences_R = rows.sequences_R.tolist()
        if unknown := [sequence for sequence in sequences_R if sequence not in self._sequences]:
            raise Refused("BAD_PLAN", f"sequences {unknown} were not opened")
        states_R = [self._sequences[sequence] for sequence in sequences_R]
        self._write(rows, states_R)
        return states_R

    def _write(self, rows: Rows, states_R: Sequence[SequenceState]) -> None:
        """Tell the rows' ids to those whose penalties want to know them."""
        if all(state.is_plain for state in states_R):
            return
        starts_R = rows.starts_R.tolist()
        for row, state in enumerate(states_R):
            ids = rows.ids_N[starts_R[row] : starts_R[row] + int(rows.lengths_R[row])]
            state.write(int(rows.base_lengths_R[row]), ids)

    def _score(self, rows: Rows, plan: pb.Plan, scored_SM: torch.Tensor | Floats) -> list[PackedRecords]:
        """Return the records of the scored positions, if there are any."""
        if not len(rows.scored_ids_S):
            return []
        hidden_SM = torch.as_tensor(scored_SM)
        records = score_records(
            lambda start, stop: self._forward.logits(hidden_SM[start:stop]),
            torch.from_numpy(rows.scored_ids_S.copy()),
            self._vocabulary.start,
            plan.num_scored_raw,
        )
        return [pack(records)]

    def _fill_times(self, result: pb.StepResult, read_ns: int, began_ns: int, ahead: AheadRows | None) -> None:
        """Account for the time from reading the frame to now, and for what was run ahead of it."""
        collective_ns = self._group.take_collective_ns()
        spent_ns = time.perf_counter_ns() - began_ns
        result.queue_ns = began_ns - read_ns
        if ahead is not None:
            collective_ns += ahead.collective_ns
            spent_ns += ahead.ended_ns - ahead.began_ns
            result.ahead_ns = max(0, min(read_ns, ahead.ended_ns) - ahead.began_ns)
            result.queue_ns -= ahead.ended_ns - ahead.began_ns - result.ahead_ns
        result.collective_ns = collective_ns
        result.compute_ns = spent_ns - collective_ns - result.encode_ns
