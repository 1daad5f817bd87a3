"""One answer from first event to last, shown as it comes."""

from contextlib import aclosing
from dataclasses import dataclass, field

import click

from common.commands.client import Client, events
from common.commands.printers import Printer
from tandem.v1.inference_service_pb2 import GenerateFinished, GenerateRequest


@dataclass
class Answer:
    """What has come so far. `finished` is None until the stream ended well."""

    pieces: list[str] = field(default_factory=list)
    finished: GenerateFinished | None = None

    @property
    def text(self) -> str:
        """The text of all deltas."""
        return "".join(self.pieces)


async def stream_answer(client: Client, request: GenerateRequest, printer: Printer, answer: Answer) -> None:
    """Show the answer to `request` with `printer` and collect it in `answer`, also when it is broken off.

    Raises click.ClickException when the server ends the stream with an error.
    """
    try:
        async with aclosing(events(client, request)) as stream:
            async for event in stream:
                match event.WhichOneof("event"):
                    case "started":
                        printer.started(event.started)
                    case "delta":
                        answer.pieces.append(event.delta.text)
                        printer.delta(event.delta)
                    case "finished":
                        answer.finished = event.finished
                        printer.finished(event.finished)
        if answer.finished is None:
            raise click.ClickException("the server ended the stream too early")
    finally:
        if answer.finished is None:
            printer.broken_off()
