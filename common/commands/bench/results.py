"""Everything that one run of the bench found out, and its form as JSON."""

import json
import os
import platform
import re
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from common.commands.bench.bandwidth import Bandwidth
from common.commands.bench.compare import Comparison
from common.commands.bench.hops import SingleStream
from common.commands.bench.statistics import LoadResult
from common.commands.bench.trace import Trace
from tandem.v1.inference_service_pb2 import GetModelResponse

FORMAT = "tandem-bench/1"


@dataclass(frozen=True)
class Model:
    """What was measured, as GetModel tells."""

    name: str
    checkpoint_hash: str
    dtype: str
    quantization: str
    tensor_parallel_size: int
    compact_saved_bytes: int = 0


@dataclass(frozen=True)
class Machine:
    """Where it was measured. The client runs here; so do the servers, if the bench started them."""

    processor: str
    cores: int
    system: str
    python: str


@dataclass(frozen=True)
class Waterfall:
    """One request's times, ms: what the server says of its phases, and the whole as the client saw it."""

    tokenize_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    client_first_token_ms: float
    client_total_ms: float


@dataclass(frozen=True)
class RooflinePoint:
    """A measured rate, and the bytes of weights read for each of its tokens."""

    label: str
    weight_bytes_per_token: float
    tokens_per_s: float


@dataclass(frozen=True)
class Run:
    """One run of a bench: when it began, what was measured and where, and what was asked for."""

    taken_at: str
    model: Model
    machine: Machine
    work: dict[str, str]


@dataclass(frozen=True)
class Results(Run):
    """What one run of `tandem bench` found out. None stands for what could not be measured here."""

    loads: tuple[LoadResult, ...]
    single_stream: SingleStream | None
    waterfall: Waterfall | None
    weight_bytes_per_step: int | None
    bandwidth: Bandwidth | None
    peak_gb_per_s: float | None
    peak_resident_bytes: dict[str, int]
    comparison: Comparison | None

    @property
    def single_stream_load(self) -> LoadResult | None:
        """The closed loop of one stream, if it was run."""
        return next((load for load in self.loads if load.loop == "closed" and load.offered == 1), None)

    @property
    def weight_bytes_per_token(self) -> float | None:
        """Bytes of weights read for each token of a single stream."""
        if self.weight_bytes_per_step is None or self.single_stream is None:
            return None
        return self.weight_bytes_per_step * self.single_stream.steps_per_token

    @property
    def achieved_gb_per_s(self) -> float | None:
        """Weights read per second while a single stream decodes; the KV cache is not counted."""
        if self.weight_bytes_per_token is None or self.single_stream is None:
            return None
        return self.weight_bytes_per_token * self.single_stream.grpc_tokens_per_s / 1e9

    @property
    def share_of_peak(self) -> float | None:
        """Achieved over peak bandwidth (what the gpt-fast blog calls model bandwidth utilization)."""
        if self.achieved_gb_per_s is None or self.peak_gb_per_s is None:
            return None
        return self.achieved_gb_per_s / self.peak_gb_per_s

    @property
    def roofline(self) -> list[RooflinePoint]:
        """A point for each closed loop: streams of one step share its reading of the weights."""
        if self.weight_bytes_per_step is None:
            return []
        mode = self.model.quantization if self.model.quantization != "none" else self.model.dtype
        if self.model.compact_saved_bytes:
            mode += " compact"
        if self.model.tensor_parallel_size > 1:
            mode += f" TP {self.model.tensor_parallel_size}"
        points = []
        if self.single_stream is not None and self.weight_bytes_per_token is not None:
            rate = self.single_stream.grpc_tokens_per_s
            points.append(RooflinePoint(f"{mode}, 1 stream", self.weight_bytes_per_token, rate))
        points += [
            RooflinePoint(f"{mode}, {load.load}", self.weight_bytes_per_step / load.mean_streams, load.tokens_per_s)
            for load in self.loads
            if load.loop == "closed" and load.offered > 1
        ]
        return points

    def to_json(self) -> str:
        """Return the run as one JSON object: the fields by name, and what is derived from them."""
        fields: dict[str, Any] = {"format": FORMAT} | asdict(self)
        fields["weight_bytes_per_token"] = self.weight_bytes_per_token
        fields["achieved_gb_per_s"] = self.achieved_gb_per_s
        fields["share_of_peak"] = self.share_of_peak
        fields["roofline"] = [asdict(point) for point in self.roofline]
        if self.single_stream is not None:
            fields["single_stream"]["grpc_share"] = self.single_stream.grpc_share
        if self.comparison is not None:
            fields["comparison"]["ratio"] = asdict(self.comparison.ratio)
        return json.dumps(fields, indent=2)


def read_roofline(path: Path) -> list[RooflinePoint]:
    """Return the roofline's points of an earlier run's JSON. Raises click.ClickException when it is none."""
    try:
        fields = json.loads(path.read_text())
        if fields["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return [RooflinePoint(**point) for point in fields["roofline"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{path} is no result of `tandem bench --json`: {error}") from None


def waterfall(trace: Trace) -> Waterfall:
    """Return the times of one request."""
    times = trace.finished.timings
    return Waterfall(
        tokenize_ms=times.tokenize_ns / 1e6,
        queue_ms=times.queue_ns / 1e6,
        prefill_ms=times.prefill_ns / 1e6,
        decode_ms=times.decode_ns / 1e6,
        client_first_token_ms=trace.time_to_first_token_ns / 1e6,
        client_total_ms=trace.duration_ns / 1e6,
    )


def describe(model: GetModelResponse) -> Model:
    """Return what is kept of a gateway's own description."""
    return Model(
        model.name,
        model.checkpoint_hash,
        model.dtype,
        model.quantization,
        model.tensor_parallel_size,
        model.compact_saved_bytes,
    )


def this_machine() -> Machine:
    """Describe the machine this runs on."""
    processor = platform.processor()
    if sys.platform == "linux" and (name := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())):
        processor = name[1]
    return Machine(processor or "unknown", os.cpu_count() or 1, f"{platform.system()} {platform.machine()}",
                   platform.python_version())  # fmt: skip


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
