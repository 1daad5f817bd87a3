"""lm-evaluation-harness (Gao et al., github.com/EleutherAI/lm-evaluation-harness) with a gateway as its model.

The harness is an extra: it is imported when it is needed, not with this module.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import grpc

from common.cli.suggest import did_you_mean
from common.commands.client import connected
from common.commands.eval.generation_settings import read_settings
from common.commands.eval.prompt import pack_chat
from common.commands.eval.served_model import ServedModel
from common.commands.gateway_address import GatewayAddress
from common.commands.in_order import in_order
from common.status import read_error
from tandem.v1.inference_service_pb2 import GetModelResponse

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

DEFAULT_MAX_TOKENS = 256  # of an answer, where the task states none: as lm_eval's own backends

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Service:
    """Which gateway answers, and how it is asked."""

    gateway: GatewayAddress
    concurrency: int
    prefix_token_id: int | None

    def ask_all(
        self, requests: Sequence["Instance"], ask: Callable[[ServedModel, int, Any], Awaitable[Answer]], label: str
    ) -> list[Answer]:
        """Return `ask(model, index, arguments)` of every request, in order.

        Raises click.ClickException with the gateway's reason when it refuses one.
        """
        return asyncio.run(self._ask_all([request.args for request in requests], ask, label))

    async def _ask_all(
        self, arguments: Sequence[Any], ask: Callable[[ServedModel, int, Any], Awaitable[Answer]], label: str
    ) -> list[Answer]:
        async with connected(self.gateway) as client:
            try:
                served = await ServedModel.of(client, self.prefix_token_id)
                with click.progressbar(length=len(arguments), label=label, file=sys.stderr) as bar:
                    return await in_order(
                        list(enumerate(arguments)),
                        lambda numbered: ask(served, *numbered),
                        self.concurrency,
                        bar.update,
                    )
            except grpc.aio.AioRpcError as error:
                raise click.ClickException(read_error(error)) from None


async def _loglikelihood(served: ServedModel, _: int, arguments: tuple[str, str]) -> tuple[float, bool]:
    return await served.loglikelihood(*await served.split(*arguments))


async def _loglikelihood_rolling(served: ServedModel, _: int, arguments: tuple[str]) -> float:
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    windows = get_rolling_token_windows(
        token_list=await served.token_ids(arguments[0]),
        prefix_token=served.prefix_token_id,
        max_seq_len=served.context_length - 1,  # context and continuation have to fit together
        context_len=1,
    )
    return sum([(await served.loglikelihood(*make_disjoint_window(window)))[0] for window in windows])


async def _generate_until(served: ServedModel, index: int, arguments: tuple[str, dict[str, Any]]) -> str:
    from lm_eval.models.utils import normalize_gen_kwargs

    prompt, fields = arguments
    return await served.generate(prompt, read_settings(normalize_gen_kwargs(fields, DEFAULT_MAX_TOKENS), seed=index))


def harness_model(service: Service, model: GetModelResponse) -> "LM":
    """Return the gateway's model as the harness knows models."""
    from lm_eval.api.model import LM

    class Served(LM):
        """Every question goes to the gateway."""

        tokenizer_name = model.tokenizer_hash

        def loglikelihood(self, requests: list["Instance"]) -> list[tuple[float, bool]]:
            return service.ask_all(requests, _loglikelihood, "log-likelihoods")

        def loglikelihood_rolling(self, requests: list["Instance"]) -> list[float]:
            return service.ask_all(requests, _loglikelihood_rolling, "log-likelihoods of whole texts")

        def generate_until(self, requests: list["Instance"]) -> list[str]:
            return service.ask_all(requests, _generate_until, "answers")

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return pack_chat(chat_history, add_generation_prompt)

        def chat_template(self, chat_template: bool | str = False) -> str:
            return f"the chat template of {model.name}, as the gateway has it"

    return Served()


@dataclass(frozen=True)
class Work:
    """What is evaluated; the fields are arguments of lm_eval.simple_evaluate."""

    tasks: Sequence[str]
    include_path: Path | None
    limit: float | None
    num_fewshot: int | None
    apply_chat_template: bool
    log_samples: bool


def evaluate(service: Service, model: GetModelResponse, work: Work) -> dict[str, Any]:
    """Return what lm_eval.simple_evaluate found out.

    Raises click.UsageError for a task that there is none of, and click.ClickException where the gateway or the harness
    cannot do the work.
    """
    from lm_eval.evaluator import simple_evaluate

    manager, tasks = _find_tasks(work)
    try:
        results = simple_evaluate(
            model=harness_model(service, model),
            tasks=tasks,
            limit=work.limit,
            num_fewshot=work.num_fewshot,
            apply_chat_template=work.apply_chat_template,
            log_samples=work.log_samples,
            task_manager=manager,
            torch_random_seed=None,  # nothing here draws by torch
        )
    except (ValueError, OSError) as error:
        # A data set that cannot be fetched, a task that runs code, a task file that makes no sense.
        raise click.ClickException(f"lm-evaluation-harness: {' '.join(str(error).split())}") from error
    assert results is not None, "this process is the only one"
    return dict(results)


def _find_tasks(work: Work) -> tuple["TaskManager", list[str]]:
    """Return the harness's list of tasks and those of its names that are meant."""
    from lm_eval.tasks import TaskManager

    if work.include_path is not None:
        own = TaskManager(include_path=str(work.include_path), include_defaults=False)
        if set(work.tasks) <= set(own.all_subtasks):
            return own, list(work.tasks)
    # Reads thousands of files, which takes seconds.
    manager = TaskManager(include_path=str(work.include_path) if work.include_path else None)
    tasks = {name: manager.match_tasks([name]) for name in work.tasks}
    if unknown := [name for name, found in tasks.items() if not found]:
        raise click.UsageError(f"there is no task {unknown[0]!r}.{did_you_mean(unknown[0], manager.all_tasks)}")
    return manager, [task for found in tasks.values() for task in found]
