"""One rank's engine: a plan in, this rank's records out. It holds what can be rebuilt and decides nothing."""

import os
import time

import numpy as np
import torch

from common.arrays import F32, U32, from_wire, to_wire
from common.errors import Refused
from common.step_protocol import PROTOCOL_VERSION
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.continuation import ContinuedStep, join
from shard_worker.device import usable_device
from shard_worker.forward import Forward
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.gpu.selection import gpu_decoder
from shard_worker.memory import size_kv_cache
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.model.weights import load_model
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.sampler import NativeSampler
from shard_worker.native.selection import native_decoder
from shard_worker.parallel import RankGroup, form_group
from shard_worker.partition import Partition, partition
from shard_worker.plan import Bounds, Rows, read_rows
from shard_worker.run_ahead import AheadRows, RunAhead
from shard_worker.sampling.records import PackedRecords, Resolvable, sample_records, score_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from shard_worker.settings import ShardSettings
from shard_worker.step_logits import step_logits
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
        self._sampler = sampler
        self._vocabulary = part.vocabulary
        self._group = group
        self._forward = Forward(model, cache, native, DTYPES[info.dtype], torch.device(info.device))
        self._run_ahead = RunAhead(self._forward, group)
        self._sequences: dict[int, SequenceState] = {}
        self._last_step: Resolvable | None = None
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
            settings.rendezvous_timeout_s,
        )
        path = ATTENTION_PATHS[settings.attention]
        model = load_model(reader, arch, part, group, path, dtype, device, quantization)
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
        rows = read_rows(plan, self._bounds)
        self._open_and_close(plan, rows)
        if not len(rows.lengths_R):
            return self._nothing_run(read_ns, began_ns)
        computed = step_logits(self._forward, rows, self._run_ahead.take())
        sampled = self._sample(rows, plan, computed.sampled_PV)
        scored = self._score(rows, plan, computed.scored_SM)
        if rows.continued_R.any():
            rows, last, sampled = self._continue(rows, plan, sampled)
        else:
            last = sampled
        result, computed_ns = pb.StepResult(), time.perf_counter_ns()
        for records in (*sampled, *scored):
            records.fill(result)
        result.encode_ns = time.perf_counter_ns() - computed_ns
        self._run_ahead.note(rows, last, plan.num_noised)
        self._fill_times(result, read_ns, began_ns, computed.used)
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
        self._write(rows)

    def _write(self, rows: Rows) -> None:
        starts_R = rows.starts_R.tolist()
        for row, sequence in enumerate(rows.sequences_R.tolist()):
            ids = rows.ids_N[starts_R[row] : starts_R[row] + int(rows.lengths_R[row])]
            self._sequences[sequence].write(int(rows.base_lengths_R[row]), ids)

    def _sample(self, rows: Rows, plan: pb.Plan, logits_PV: torch.Tensor) -> list[PackedRecords]:
        """Return the records of the sampled positions, if there are any."""
        states: list[SequenceState] = []
        positions: list[int] = []
        ends_R = rows.ends_R.tolist()
        for row, count in enumerate(rows.sampled_R.tolist()):
            states += [self._sequences[int(rows.sequences_R[row])]] * count
            # A row's last token, at position end - 1, draws the token at position `end`.
            positions += range(ends_R[row] - count + 1, ends_R[row] + 1)
        if not states:
            self._last_step = None
            return []
        lengths = (plan.num_noised, plan.num_top, plan.num_raw)
        if isinstance(self._sampler, NativeSampler):
            packed, self._last_step = self._sampler(logits_PV, states, positions, *lengths)
            return [packed]
        if self._sampler is not None and self._sampler.takes(states):
            records, self._last_step = self._sampler(logits_PV, states, positions, *lengths)
        else:
            first_id = self._vocabulary.start
            records, self._last_step = sample_records(logits_PV, states, positions, first_id, *lengths)
        return [pack(records)]

    def _continue(
        self, rows: Rows, plan: pb.Plan, sampled: list[PackedRecords]
    ) -> tuple[Rows, list[PackedRecords], list[PackedRecords]]:
        """Run the further passes of decodes whose first came to `sampled`.

        Returns the last pass's rows and records, and the records of all passes together.
        """
        everyone, passes = np.arange(len(rows.sequences_R)), list(sampled)
        assert self._last_step is not None  # a continued row is sampled
        steps = [self._last_step]
        while rows.continued_R.any():
            rows = self._run_ahead.following(rows, everyone, passes[-1], plan.num_noised)
            self._write(rows)
            passes += self._sample(rows, plan, self._forward.logits(self._forward.hidden(rows)))
            steps.append(self._last_step)
        self._last_step = ContinuedStep(steps)
        return rows, passes[-1:], [join(passes, len(everyone))]

    def _score(self, rows: Rows, plan: pb.Plan, hidden_SM: torch.Tensor) -> list[PackedRecords]:
        """Return the records of the scored positions, if there are any."""
        if not len(rows.scored_ids_S):
            return []
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
