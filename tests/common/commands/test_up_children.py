"""The command lines that `tandem up` starts are ones that the services accept."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.commands.up_children import plan_stages
from common.commands.up_settings import UpSettings
from common.errors import CheckpointError, SettingsError
from common.settings_sources import resolve
from common.supervisor_child import ChildCommand
from draft_worker.settings import DraftSettings
from gateway.settings import GatewaySettings
from shard_worker.settings import ShardSettings

FOLDER = Path("/run/tandem-x")


def plan(settings: UpSettings, cores: int = 4) -> tuple[list[ChildCommand], ChildCommand]:
    """Return the workers' commands and the gateway's. Whatever is started again is so on its own."""
    ranks, *drafts, gateway = plan_stages(settings, Path("/m"), "127.0.0.1:5", FOLDER, cores)
    assert all(stage.restarts for stage in (ranks, *drafts)) and not gateway.restarts
    assert all(len(draft.commands) == 1 for draft in drafts)
    return [*ranks.commands, *(draft.commands[0] for draft in drafts)], gateway.commands[0]


def flags_of(command: ChildCommand) -> dict[str, object]:
    """Return the flags as click would hand them to `resolve`."""
    words = list(command.command_line[5:])
    flags: dict[str, object] = {}
    while words:
        flag = words.pop(0).removeprefix("--")
        if (name := flag.removeprefix("no-").replace("-", "_")) in ("prefix_reuse", "ngram", "run_ahead"):
            flags[name] = not flag.startswith("no-")
        else:
            flags[flag.replace("-", "_")] = words.pop(0)
    return flags


def test_two_ranks_on_cpu() -> None:
    ranks, gateway = plan(UpSettings(model="m", tp=2))
    assert [command.name for command in (*ranks, gateway)] == ["rank 0", "rank 1", "gateway"]
    for number, command in enumerate(ranks):
        settings = resolve(ShardSettings, "TANDEM_SHARD", flags_of(command), command.environ)
        assert (settings.rank, settings.tp, settings.threads) == (number, 2, 2)
        assert settings.listen == f"unix:{FOLDER}/rank{number}.sock"
        assert settings.rendezvous == f"file://{FOLDER}/rendezvous"
        assert (settings.device, settings.dtype) == ("cpu", "float32")
        assert (command.environ["OMP_NUM_THREADS"], command.environ["GLOO_SOCKET_IFNAME"]) == ("2", "lo")
    served = resolve(GatewaySettings, "TANDEM_GATEWAY", flags_of(gateway), gateway.environ)
    assert served.ranks == tuple(f"unix:{FOLDER}/rank{number}.sock" for number in range(2))
    assert served.listen == "127.0.0.1:5"


def test_one_rank_needs_no_rendezvous() -> None:
    (rank,), _ = plan(UpSettings(model="m"), cores=1)
    assert "rendezvous" not in flags_of(rank)
    assert "GLOO_SOCKET_IFNAME" not in rank.environ
    assert flags_of(rank)["threads"] == "1"


def test_each_rank_takes_its_own_gpu() -> None:
    ranks, _ = plan(UpSettings(model="m", tp=2, device="cuda"))
    assert [flags_of(rank)["device"] for rank in ranks] == ["cuda:0", "cuda:1"]
    assert flags_of(ranks[0])["dtype"] == "bfloat16"


def test_settings_reach_their_service() -> None:
    (rank,), gateway = plan(
        UpSettings(
            model="m",
            dtype="bfloat16",
            max_running=3,
            max_step_tokens=4096,
            prefix_reuse=False,
            decode_slowdown_limit=1.5,
            gateway=("max-queued-tokens=9", "reflection=false"),
            shard=("attention=reference",),
        )
    )
    served = resolve(GatewaySettings, "TANDEM_GATEWAY", flags_of(gateway), gateway.environ)
    assert (served.max_running, served.max_step_tokens, served.prefix_reuse) == (3, 4096, False)
    assert (served.decode_slowdown_limit, served.max_queued_tokens, served.reflection) == (1.5, 9, False)
    shard = resolve(ShardSettings, "TANDEM_SHARD", flags_of(rank), rank.environ)
    assert (shard.attention, shard.dtype, shard.max_step_tokens) == ("reference", "bfloat16", 4096)


@pytest.mark.parametrize(("pairs", "reads_text"), [((), True), (("ngram=off",), False)])
def test_the_gateway_drafts_from_the_text_unless_told_otherwise(pairs: tuple[str, ...], reads_text: bool) -> None:
    _, gateway = plan(UpSettings(model="m", draft="ngram", gateway=(*pairs, "draft-length=fixed")))
    served = resolve(GatewaySettings, "TANDEM_GATEWAY", flags_of(gateway), gateway.environ)
    assert served.drafts == (f"unix:{FOLDER}/draft0.sock",)
    assert (served.ngram, served.draft_length) == (reads_text, "fixed")


def test_draft_workers(tmp_path: Path) -> None:
    (tmp_path / "tandem.json").write_text("{}")
    for draft, proposer in ((str(tmp_path), "model"), ("ngram", "ngram")):
        settings = UpSettings(model="m", draft=draft, drafts=2, max_draft_tokens=3, draft_worker=("max-count=5",))
        workers, gateway = plan(settings)
        assert [command.name for command in workers] == ["rank 0", "draft 0", "draft 1"]
        served = resolve(GatewaySettings, "TANDEM_GATEWAY", flags_of(gateway), gateway.environ)
        assert (served.ngram, served.max_draft_tokens) == (True, 3)
        for command, address in zip(workers[1:], served.drafts, strict=True):
            worker = resolve(DraftSettings, "TANDEM_DRAFT", flags_of(command), command.environ)
            assert (worker.proposer, worker.listen, worker.max_count) == (proposer, address, 5)
            assert worker.model == (tmp_path if proposer == "model" else None)
            assert not (worker.run_ahead and proposer == "model"), "the ranks need the same cores"


def test_no_draft_workers_without_a_draft() -> None:
    workers, gateway = plan(UpSettings(model="m", drafts=2))
    served = resolve(GatewaySettings, "TANDEM_GATEWAY", flags_of(gateway), gateway.environ)
    assert [command.name for command in workers] == ["rank 0"] and not served.drafts and not served.ngram
    with pytest.raises(CheckpointError, match="nosuch"):
        plan(UpSettings(model="m", draft="nosuch"))
    with pytest.raises(SettingsError, match="--draft-worker listen=x: `tandem up` sets listen itself"):
        plan(UpSettings(model="m", draft="ngram", draft_worker=("listen=x",)))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("listen=1:2", "`tandem up` sets listen itself"),
        ("nonsense", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
    ],
)
def test_bad_pairs(pair: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"--gateway {pair}: {message}"):
        plan(UpSettings(model="m", gateway=(pair,)))


def test_numbers_are_checked() -> None:
    with pytest.raises(ValidationError):
        UpSettings(model="m", tp=0)
