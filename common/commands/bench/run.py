"""One run of the bench: a gateway of its own or a running one, the machine's bandwidth before and after."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.commands.bench.bandwidth import Bandwidth, measure_bandwidth
from common.commands.bench.measure import Measured, Plan, measure
from common.commands.bench.memory import peak_resident_bytes
from common.commands.bench.results import Results, describe, now, this_machine, waterfall
from common.commands.bench.weights import find_checkpoint, weight_bytes_per_step
from common.commands.client import connected
from common.commands.gateway_address import GatewayAddress
from common.commands.stack import running_stack
from common.commands.up_settings import UpSettings
from common.settings_sources import resolve
from common.supervisor import Supervisor
from tandem.v1.inference_service_pb2 import GetModelResponse


@dataclass(frozen=True)
class Gateway:
    """Which gateway to measure: the one at `address`, or one of our own where that is None.

    `flags` are those of `tandem up`; of a running gateway, "model" says where its checkpoint lies on this machine, and
    "device" on what it runs.
    """

    address: GatewayAddress | None
    flags: Mapping[str, object]


async def run(gateway: Gateway, plan: Plan, peak_gb_per_s: float | None) -> Results:
    """Measure `gateway` as `plan` says. The memory's bandwidth is measured too, unless `peak_gb_per_s` states it.

    Raises what `measure` and `running_stack` raise.
    """
    settings = None
    if gateway.address is None:
        settings = resolve(UpSettings, "TANDEM_UP", {**gateway.flags, "listen": "127.0.0.1:0"}, os.environ)
    device = gateway.flags["device"] if settings is None else settings.device
    probing = peak_gb_per_s is None and device in (None, "cpu")
    bandwidth = await measure_bandwidth() if probing else None
    if settings is None:
        assert gateway.address is not None
        named = gateway.flags["model"]
        assert named is None or isinstance(named, str)
        measured, memory = await _running(gateway.address, named, plan), dict[str, int]()
    else:
        measured, memory = await _own(settings, plan)
    if bandwidth is not None:
        bandwidth = bandwidth.better(await measure_bandwidth())
    return _results(plan, *measured, memory, bandwidth, peak_gb_per_s)


async def _running(address: GatewayAddress | str, named: str | None, plan: Plan) -> tuple[Measured, Path | None]:
    async with connected(address) as client:
        checkpoint = find_checkpoint(client.model, named)  # first: a wrong name must not cost a whole measurement
        return await measure(client, plan), checkpoint


async def _own(settings: UpSettings, plan: Plan) -> tuple[tuple[Measured, Path | None], dict[str, int]]:
    async with running_stack(settings) as stack:
        measured = await stack.supervisor.while_running(_running(stack.address, settings.model, plan))
        return measured, _memory(stack.supervisor)


def _memory(supervisor: Supervisor) -> dict[str, int]:
    peaks = {child.name: peak_resident_bytes(child.pid) for child in supervisor.children}
    return {name: peak for name, peak in peaks.items() if peak is not None}


def _results(
    plan: Plan,
    measured: Measured,
    checkpoint: Path | None,
    memory: dict[str, int],
    bandwidth: Bandwidth | None,
    peak_gb_per_s: float | None,
) -> Results:
    model = measured.model
    return Results(
        taken_at=now(),
        model=describe(model),
        machine=this_machine(),
        work={
            "prompt_tokens": str(plan.prompt_tokens),
            "output_tokens": str(plan.output_tokens),
            "temperature": f"{plan.temperature:g}",
            "arrival_seed": str(plan.seed),
        },
        loads=measured.loads,
        single_stream=measured.single_stream,
        waterfall=waterfall(measured.one) if measured.one is not None else None,
        weight_bytes_per_step=_weight_bytes_per_step(checkpoint, model) if checkpoint else None,
        bandwidth=bandwidth,
        peak_gb_per_s=peak_gb_per_s or (bandwidth.peak_gb_per_s if bandwidth else None),
        peak_resident_bytes=memory,
        comparison=measured.comparison,
    )


def _weight_bytes_per_step(checkpoint: Path, model: GetModelResponse) -> int:
    return weight_bytes_per_step(checkpoint, model.dtype, model.tensor_parallel_size, model.compact_saved_bytes)
