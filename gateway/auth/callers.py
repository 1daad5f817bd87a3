"""Who is calling? The tenant of a call is its token's, whatever else the call says"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from common.errors import Unauthenticated
from common.watched_files import WatchedFiles
from gateway.auth.tenants import Tenant, TenantTable, read_tenants
from gateway.auth.usage import Usage

SCHEME = "bearer "
ANYBODY = Tenant("")

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]


class Caller(NamedTuple):
    """One admitted call: whose it is, and what to tell of the tokens it uses."""

    tenant: str
    charge: Callable[[int], None]


class Callers:
    """All who may call. Without a file of tenants that is anybody, without limits."""

    def __init__(self, tenants_file: Path | None = None) -> None:
        """Read the file; it is read anew when it changes. Raises SettingsError."""
        self._usage: defaultdict[str, Usage] = defaultdict(Usage)
        self._tenants: WatchedFiles[TenantTable] | None = None
        if tenants_file is not None:
            self._tenants = WatchedFiles([tenants_file], functools.partial(read_tenants, tenants_file))

    def identify(self, metadata: Metadata) -> Tenant:
        """Return whose token a call carries. Raises Unauthenticated without saying what is wrong with it."""
        if self._tenants is None:
            return ANYBODY
        given = [value for key, value in metadata if key == "authorization"]
        if len(given) == 1 and isinstance(given[0], str) and given[0][: len(SCHEME)].lower() == SCHEME:
            tenant = self._tenants.value.find(given[0][len(SCHEME) :].encode())
            if tenant is not None:
                return tenant
        raise Unauthenticated("a valid token is needed: `authorization: Bearer TOKEN`")

    def admit(self, context: Context) -> Caller:
        """Count a call that generates until it ends. Raises Unauthenticated, or QuotaExceeded at a tenant's limit."""
        tenant = self.identify(context.invocation_metadata() or ())
        if tenant is ANYBODY:
            return Caller(tenant.name, lambda tokens: None)
        usage = self._usage[tenant.name]
        usage.begin(tenant)
        ended: Any = lambda _: usage.end()  # noqa: E731  # the stubs ask for a class of theirs
        context.add_done_callback(ended)
        return Caller(tenant.name, functools.partial(usage.charge, tenant))
