"""Which processes does `tandem up` start, and with which flags?"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.commands.up_settings import UpSettings
from common.errors import SettingsError
from common.model_store import resolve
from common.plaintext import is_local, refuse_plaintext
from common.supervisor import Stage
from common.supervisor_child import ChildCommand

NGRAM = "ngram"
RENDEZVOUS = "rendezvous"
RANK_STOP_BUDGET_S = 10.0
STOP_MARGIN_S = 5.0

GATEWAY_FIELDS = (
    "max_running",
    "max_step_tokens",
    "max_prefill_chunk_tokens",
    "decode_slowdown_limit",
    "prefix_reuse",
    "max_queued_requests",
    "max_draft_tokens",
    "drain_budget_s",
    "tls_cert",
    "tls_key",
    "tenants",
    "allow_plaintext",
    "allow_anonymous",
)


def plan_stages(settings: UpSettings, model: Path, listen: str, folder: Path, cores: int) -> list[Stage]:
    """Return the stage of the ranks, one for each draft worker and the gateway's: stopped in the opposite order, so
    that streams can drain. Whatever dies but the gateway is started again; ranks all together, for they meet only once.

    Workers listen on unix sockets in `folder`, which must be private; `listen` is the gateway's address. Raises
    SettingsError where settings do not fit together or would let strangers in, CheckpointError where the draft's model
    is not there.
    """
    _refuse_open_doors(settings, listen)
    sockets = [f"unix:{folder}/rank{rank}.sock" for rank in range(settings.tp)]
    ranks = [_rank(settings, rank, model, sockets[rank], folder, cores) for rank in range(settings.tp)]
    draft_sockets = draft_addresses(settings, folder)
    drafts = [_draft(settings, number, socket, cores) for number, socket in enumerate(draft_sockets)]
    left = [Path(socket.removeprefix("unix:")) for socket in sockets]
    gateway = _gateway(settings, model, listen, sockets, draft_sockets, folder)
    return [
        Stage(ranks, RANK_STOP_BUDGET_S, restarts=True, leftovers=[folder / RENDEZVOUS, *left]),
        *(Stage([draft], RANK_STOP_BUDGET_S, restarts=True) for draft in drafts),
        Stage([gateway], settings.drain_budget_s + STOP_MARGIN_S),
    ]


def draft_addresses(settings: UpSettings, folder: Path) -> list[str]:
    """Return where the draft workers listen."""
    return [f"unix:{folder}/draft{number}.sock" for number in range(settings.drafts if settings.draft else 0)]


def probe_address(settings: UpSettings, listen: str, folder: Path) -> str:
    """Return where the gateway answers health checks in plaintext: beside its own address, where that has TLS."""
    return listen if settings.tls_cert is None else f"unix:{folder}/health.sock"


def _refuse_open_doors(settings: UpSettings, listen: str) -> None:
    """Raise SettingsError at once where the gateway would refuse to start."""
    if settings.tls_cert is None and not settings.allow_plaintext:
        ways_out = "set --tls-cert and --tls-key, or allow it with --allow-plaintext"
        refuse_plaintext([listen], "listening on", ways_out)
    if settings.tenants is None and not settings.allow_anonymous and not is_local(listen):
        raise SettingsError(
            f"anybody who reaches {listen} could use the model: set --tenants (`tandem token` makes tokens), or allow "
            "it with --allow-anonymous"
        )


def _gateway(
    settings: UpSettings, model: Path, listen: str, ranks: Sequence[str], drafts: Sequence[str], folder: Path
) -> ChildCommand:
    flags = {"model": model, "listen": listen, "ranks": ",".join(ranks)}
    if settings.tls_cert is not None:
        flags["health_listen"] = probe_address(settings, listen, folder)
    flags |= {name: getattr(settings, name) for name in GATEWAY_FIELDS}
    if settings.metrics_listen:
        flags["metrics_listen"] = settings.metrics_listen
    if settings.draft:
        flags["drafts"] = ",".join(drafts) or None
    # What the gateway finds in a request's own text costs no trip, and serves while a worker is away.
    environ = {"TANDEM_GATEWAY_NGRAM": "true"} if settings.draft else {}
    environ["TANDEM_GATEWAY_REFLECTION"] = "true"
    environ |= _other_settings("gateway", settings.gateway, taken=flags)
    return ChildCommand("gateway", _serve("gateway", flags), environ)


def _rank(settings: UpSettings, rank: int, model: Path, listen: str, folder: Path, cores: int) -> ChildCommand:
    threads = settings.threads or max(1, cores // settings.tp)
    flags = {
        "model": model,
        "rank": rank,
        "tp": settings.tp,
        "listen": listen,
        "device": f"cuda:{rank}" if settings.device == "cuda" else settings.device,
        "dtype": settings.dtype or ("float32" if settings.device == "cpu" else "bfloat16"),
        "threads": threads,
        "kv_cache_tokens": settings.kv_cache_tokens,
        "max_step_tokens": settings.max_step_tokens,
    }
    environ = {"OMP_NUM_THREADS": str(threads)}
    if settings.tp > 1:
        flags["rendezvous"] = f"file://{folder}/{RENDEZVOUS}"
        environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    environ |= _other_settings("shard", settings.shard, taken=flags)
    return ChildCommand(f"rank {rank}", _serve("shard", flags), environ)


def _draft(settings: UpSettings, number: int, listen: str, cores: int) -> ChildCommand:
    threads = settings.threads or max(1, cores // settings.tp)
    flags: dict[str, object] = {"listen": listen}
    if settings.draft == NGRAM:
        flags["proposer"] = NGRAM
    else:
        assert settings.draft is not None
        flags |= {"model": resolve(settings.draft), "threads": threads}
        flags["device"] = "cuda:0" if settings.device == "cuda" else settings.device
        if settings.device == "cpu":
            flags["run_ahead"] = False  # the ranks need the same cores
    environ = {"OMP_NUM_THREADS": str(threads)}
    environ |= _other_settings("draft", settings.draft_worker, taken=flags, flag="draft-worker")
    return ChildCommand(f"draft {number}", _serve("draft", flags), environ)


def _serve(service: str, flags: Mapping[str, object]) -> tuple[str, ...]:
    """Return the command line of `tandem serve`; None leaves a flag out."""
    command_line = [sys.executable, "-m", "common.cli.main", "serve", service]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            command_line.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            command_line += [f"--{flag}", str(value)]
    return tuple(command_line)


def _other_settings(
    service: str, pairs: Sequence[str], taken: Mapping[str, object], flag: str | None = None
) -> dict[str, str]:
    """Turn KEY=VALUE pairs into the service's environment variables, where the service itself judges them.

    `flag` is the one that gave them, where it is not named after the service.
    """
    flag = flag or service
    environ = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise SettingsError(f"--{flag} {pair}: expected KEY=VALUE")
        if taken.get(name) is not None:
            raise SettingsError(f"--{flag} {pair}: `tandem up` sets {name} itself")
        environ[f"TANDEM_{service.upper()}_{name.upper()}"] = value
    return environ
