"""From the flags of `tandem bench speculate` to its table and its file."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click

from common.commands.bench.outcome import ONLY_OF_OWN as SET_AT_START
from common.commands.bench.outcome import gateway_of, run_to_end, write_text
from common.commands.bench.results import describe, now, this_machine
from common.commands.bench.run import Gateway
from common.commands.bench.speculate.cell import Cell
from common.commands.bench.speculate.measure import Plan, measure
from common.commands.bench.speculate.prompts import prompts_of
from common.commands.bench.speculate.results import SpeculationResults
from common.commands.bench.speculate.table import table_lines
from common.commands.client import connected
from common.commands.gateway_address import GatewayAddress
from common.commands.stack import running_stack
from common.commands.up_children import NGRAM
from common.commands.up_settings import UpSettings
from common.process import set_up_logging
from common.settings_sources import resolve
from tandem.v1.inference_service_pb2 import GetModelResponse

AS_SERVED = "as served"
ONLY_OF_OWN = (*SET_AT_START, "model", "device", "draft", "draft_worker", "proposer")


def speculate_and_show(flags: Mapping[str, Any]) -> int:
    """Measure what the flags ask for, print it and write the file; return the exit code.

    Raises click.ClickException when a gateway or a child fails, or the file cannot be written.
    """
    set_up_logging("bench", flags["log_level"])
    gateway = gateway_of(flags, ONLY_OF_OWN)
    plan = Plan(
        prompts=prompts_of(flags["text"], flags["prompt_files"]),
        lengths=flags["lengths"],
        temperatures=flags["temperature"],
        max_tokens=flags["max_tokens"],
        repeats=flags["repeat"],
        seed=flags["seed"],
    )
    work = {
        "text": flags["text"] if not flags["prompt_files"] else "from files",
        "prompts": str(len(plan.prompts)),
        "repeats": str(plan.repeats),
        "max_tokens": str(plan.max_tokens),
        "seed": str(plan.seed),
        "draft": flags["draft"] or "",
    }
    proposers = proposers_of(flags)
    model, cells = run_to_end(_measured(gateway, proposers, plan))
    results = SpeculationResults(now(), describe(model), this_machine(), work, tuple(cells))
    for line in table_lines(results):
        click.echo(line)
    if flags["json_file"] is not None:
        write_text(flags["json_file"], results.to_json())
    return 0


def own_settings(gateway: Gateway, proposer: str) -> UpSettings:
    """Return the settings of a cluster that drafts by this proposer alone, as many tokens as it is asked for.

    Raises SettingsError.
    """
    given = gateway.flags["gateway"]
    assert isinstance(given, tuple)
    fixed = (*given, "draft_length=fixed")
    changed: dict[str, dict[str, object]] = {
        "none": {"draft": "", "draft_worker": ()},
        "ngram": {"draft": NGRAM, "drafts": "0", "draft_worker": ()},
        "worker": {"gateway": (*fixed, "ngram=off")},
    }
    flags = {**gateway.flags, "gateway": fixed, "listen": "127.0.0.1:0"} | changed[proposer]
    return resolve(UpSettings, "TANDEM_UP", flags, os.environ)


def proposers_of(flags: Mapping[str, Any]) -> tuple[str, ...]:
    """Return who drafts, in the order of measurement. Raises click.UsageError where the flags do not fit together."""
    chosen = tuple(dict.fromkeys(flags["proposer"]))
    if flags["address"] is not None:
        return (AS_SERVED,)
    if "worker" in chosen and not flags["draft"]:
        raise click.UsageError("--proposer worker needs --draft MODEL")
    return chosen or ("none", "ngram", *(["worker"] if flags["draft"] else []))


async def _measured(gateway: Gateway, proposers: Sequence[str], plan: Plan) -> tuple[GetModelResponse, list[Cell]]:
    if gateway.address is not None:
        return await _running(gateway.address, AS_SERVED, plan)
    cells: list[Cell] = []
    model = GetModelResponse()
    for proposer in proposers:
        async with running_stack(own_settings(gateway, proposer)) as stack:
            model, measured = await stack.supervisor.while_running(_running(stack.address, proposer, plan))
        cells += measured
    return model, cells


async def _running(address: GatewayAddress | str, proposer: str, plan: Plan) -> tuple[GetModelResponse, list[Cell]]:
    async with connected(address) as client:
        return client.model, await measure(client, plan, proposer)
