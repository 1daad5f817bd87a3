"""`tandem token`: a new token for a tenant, and the entry of its hash"""

import os
import secrets
from hashlib import sha256
from pathlib import Path

import click
import yaml

PREFIX = "tandem_"  # so that scanners for leaked secrets can tell what they found
TOKEN_BYTES = 32


@click.command()
@click.argument("tenant")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="new file for the token itself"
)
@click.option("--max-streams", type=click.IntRange(min=1), help="most requests of the tenant at once")
@click.option("--max-tokens-per-minute", type=click.IntRange(min=1), help="most tokens of prompts and answers together")
def token(tenant: str, out: Path, max_streams: int | None, max_tokens_per_minute: int | None) -> None:
    """Make a token for TENANT: the token goes to a file that only you can read, its entry for --tenants to stdout.

    \b
    tandem token acme --out acme.token >> tenants.yaml
    tandem up --tenants tenants.yaml
    tandem generate --token-file acme.token "Hello"
    """
    secret = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.ClickException(f"{out}: {(error.strerror or str(error)).lower()}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
    entry: dict[str, object] = {"tenant": tenant, "sha256": sha256(secret.encode()).hexdigest()}
    if max_streams is not None:
        entry["max_streams"] = max_streams
    if max_tokens_per_minute is not None:
        entry["max_tokens_per_minute"] = max_tokens_per_minute
    click.echo(yaml.safe_dump([entry], sort_keys=False, width=1000), nl=False)
