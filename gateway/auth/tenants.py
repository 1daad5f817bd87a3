"""Whose tokens are known, and how much each tenant may use: the file that an operator keeps

A list in YAML or JSON. Tokens are random and long (`tandem token` makes them), so that a plain SHA-256 tells nothing of
them; the tokens themselves are nowhere in it.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from common.errors import SettingsError

MAX_TOKENS = 1000  # all of them are compared at each call
MAX_FILE_BYTES = 1 << 20


class Tenant(NamedTuple):
    """Who pays for a call. None is no limit; the empty name stands for everybody where no tokens are asked for."""

    name: str
    max_streams: int | None = None
    max_tokens_per_minute: int | None = None


class KnownToken(BaseModel):
    """One token of a tenant; a tenant has several while one replaces another."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenant: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    max_streams: PositiveInt | None = None
    max_tokens_per_minute: PositiveInt | None = None


class TenantTable:
    """All known tokens. `find` takes as long for a token that is nearly right as for any other."""

    def __init__(self, tokens: Sequence[KnownToken]) -> None:
        """Raise SettingsError where two tokens of a tenant disagree about its limits, or one is known twice."""
        self._tokens: list[tuple[bytes, Tenant]] = []
        tenants: dict[str, Tenant] = {}
        digests: set[bytes] = set()
        for number, token in enumerate(tokens, 1):
            tenant = Tenant(token.tenant, token.max_streams, token.max_tokens_per_minute)
            if tenants.setdefault(tenant.name, tenant) != tenant:
                raise SettingsError(f"entry {number}: tenant {tenant.name} has other limits in an entry before")
            digest = bytes.fromhex(token.sha256)
            if digest in digests:
                raise SettingsError(f"entry {number}: this token stands in an entry before")
            digests.add(digest)
            self._tokens.append((digest, tenant))

    def find(self, token: bytes) -> Tenant | None:
        """Return whose token this is, None where nobody's."""
        digest = sha256(token).digest()
        found = None
        for known, tenant in self._tokens:  # to the end, whatever is found
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def read_tenants(path: Path) -> TenantTable:
    """Return the table that the file holds; an empty file lets nobody in.

    Raises SettingsError, which never quotes the content, or OSError.
    """
    data = path.read_bytes()
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{path}: more than {MAX_FILE_BYTES} bytes")
    try:
        # LibYAML is ten times as fast, and calls wait while a changed file is read.
        content = yaml.load(data, Loader=yaml.CSafeLoader) if yaml.__with_libyaml__ else yaml.safe_load(data)
        tokens = _TOKENS.validate_python(content or [])
    except yaml.YAMLError:
        raise SettingsError(f"{path}: neither YAML nor JSON") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise SettingsError(f"{path}: entry {where}: {first['msg']}" if where else f"{path}: {first['msg']}") from None
    try:
        return TenantTable(tokens)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


_TOKENS = TypeAdapter(Annotated[list[KnownToken], Field(max_length=MAX_TOKENS)])
