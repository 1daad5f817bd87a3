"""`tandem doctor`: can this machine serve, and if not, what to do?"""

from collections.abc import Iterator

import click

from common.commands.doctor_checks import (
    check_draft,
    check_hardware,
    check_listen,
    check_model,
    check_software,
    check_torch,
)
from common.commands.findings import Finding
from common.model_store import EMBEDDED_MODEL


@click.command()
@click.option("--listen", default="127.0.0.1:50051", show_default=True, help="address a gateway would serve on")
@click.option("--model", default=EMBEDDED_MODEL, show_default=True, help="model that should be there")
@click.option("--draft", help="model that a draft worker would propose with")
def doctor(listen: str, model: str, draft: str | None) -> int:
    """Check whether this machine can serve. Exit code 1 if something must be mended."""
    failed = False
    for finding in findings(listen, model, draft):
        click.echo(finding.line())
        failed |= finding.level == "fail"
    return int(failed)


def findings(listen: str, model: str, draft: str | None = None) -> Iterator[Finding]:
    """Yield every finding, quick checks first."""
    yield from check_software()
    yield from check_hardware()
    yield check_listen(listen)
    yield from check_model(model)
    if draft is not None:
        yield check_draft(draft, model)
    yield from check_torch()
