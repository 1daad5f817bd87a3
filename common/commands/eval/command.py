"""`tandem eval`: a running gateway judged by tasks of lm-evaluation-harness."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import click

from common.commands.client import connected
from common.commands.eval.harness import Service, Work, evaluate
from common.commands.gateway_address import GatewayAddress, gateway_address_options
from tandem.v1.inference_service_pb2 import GetModelResponse

REPORTED = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better", "samples", "lm_eval_version")


@click.command("eval")
@click.option("--tasks", required=True, metavar="A,B,...", help="names of tasks or groups of the harness")
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="folder with task files of your own (YAML, as the harness describes)",
)
@click.option("--limit", type=click.FloatRange(min=0, min_open=True), help="documents a task; below 1: a share of them")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="examples before each question  [default: the task's]")
@click.option("--apply-chat-template", is_flag=True, help="ask as a conversation, by the served model's own template")
@click.option("--prefix-token-id", type=click.IntRange(min=0), help="what a text without context begins with")
@click.option("--concurrency", type=click.IntRange(1, 256), default=32, show_default=True, help="requests at once")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="write the results here")
@click.option("--log-samples", is_flag=True, help="with --json: every document with its answers, too")
@gateway_address_options
def eval_command(
    tasks: str,
    gateway: GatewayAddress,
    concurrency: int,
    prefix_token_id: int | None,
    json_file: Path | None,
    limit: float | None,
    **flags: Any,
) -> None:
    """Evaluate the model that a running gateway serves, by EleutherAI's lm-evaluation-harness.

    Log-likelihoods go through the public Score call, answers through Generate: what is evaluated is the service. Most
    of the harness's own tasks fetch their data from the Hugging Face hub; those of --include-path may lie on disk. What
    looks like a special token in a task's text stays text, as everywhere in plain prompts.
    """
    if flags["log_samples"] and json_file is None:
        raise click.UsageError("--log-samples needs --json FILE")
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    model = asyncio.run(_describe(gateway))
    if flags["apply_chat_template"] and not model.has_chat_template:
        raise click.ClickException(f"{model.name} has no chat template")
    work = Work(
        tasks=[name.strip() for name in tasks.split(",") if name.strip()],
        limit=int(limit) if limit is not None and limit >= 1 else limit,
        **flags,
    )
    found = evaluate(Service(gateway, concurrency, prefix_token_id), model, work)
    _show(found, model)
    if json_file is not None:
        _write(found, model, json_file)


async def _describe(gateway: GatewayAddress) -> GetModelResponse:
    async with connected(gateway) as client:
        return client.model


def _show(found: dict[str, Any], model: GetModelResponse) -> None:
    from lm_eval.utils import make_table

    click.echo(f"{model.name}, {model.dtype}, quantization {model.quantization}, {model.tensor_parallel_size} rank(s)")
    click.echo(make_table(found))
    if found.get("groups"):
        click.echo(make_table(found, "groups"))


def _write(found: dict[str, Any], model: GetModelResponse, file: Path) -> None:
    from lm_eval.utils import handle_non_serializable

    described = {field.name: value for field, value in model.ListFields() if field.name != "end_of_text_ids"}
    report = {"model": described} | {name: found[name] for name in REPORTED if name in found}
    try:
        file.write_text(json.dumps(report, indent=2, default=handle_non_serializable, ensure_ascii=False) + "\n")
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None
