"""Where settings come from, in which order, and what is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field, PositiveFloat, PositiveInt

from common.errors import SettingsError
from common.settings import Settings
from common.settings_sources import resolve, settings_options
from tests.support.click_flags import parsed_flags


class Example(Settings):
    model: Path = Field(description="a folder")
    ranks: tuple[str, ...] = Field(default=("a",), description="addresses")
    max_running: PositiveInt = Field(default=64, description="most sequences")
    limit: PositiveFloat = Field(default=2.0, description="a factor")
    reuse: bool = Field(default=True, description="share blocks")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="type")
    threads: PositiveInt | None = Field(default=None, description="threads")
    listen: str = Field(default="127.0.0.1:0", description="address")


def resolved(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    yaml: Path | None = None,
) -> Example:
    return resolve(Example, "TANDEM_EXAMPLE", {"model": "/m", **(flags or {})}, environ or {}, yaml)


def prefixed(environ: Mapping[str, str]) -> dict[str, str]:
    return {f"TANDEM_EXAMPLE_{name}": value for name, value in environ.items()}


def test_defaults_stay_where_nothing_is_given() -> None:
    assert resolved(parsed_flags(settings_options(Example), ["--model", "/m"])) == Example(model=Path("/m"))


def test_every_kind_of_flag() -> None:
    numbers = ["--max-running", "3", "--limit", "1.5", "--threads", "2"]
    others = ["--ranks", "a,b", "--ranks", "c", "--no-reuse", "--dtype", "float32"]
    flags = parsed_flags(settings_options(Example), ["--model", "/m", *numbers, *others])
    assert resolve(Example, "TANDEM_EXAMPLE", flags, {}) == Example(
        model=Path("/m"),
        ranks=("a", "b", "c"),
        max_running=3,
        limit=1.5,
        reuse=False,
        dtype="float32",
        threads=2,
    )


def test_help_shows_description_and_default() -> None:
    command = click.command()(settings_options(Example)(lambda **_: None))
    text = " ".join(CliRunner().invoke(command, ["--help"]).output.split())
    assert "most sequences [default: 64]" in text
    assert "a folder [required]" in text
    assert "--reuse / --no-reuse" in text


def test_flags_go_before_environment_before_yaml_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max_running: 1\nlimit: 1\nlisten: yaml\nranks: [y, z]\n")
    environ = {
        "TANDEM_EXAMPLE_MAX_RUNNING": "2",
        "TANDEM_EXAMPLE_LIMIT": "2.5",
        "TANDEM_EXAMPLE_REUSE": "false",
    }
    settings = resolved({"max_running": "3"}, environ, file)
    assert (settings.max_running, settings.limit, settings.listen) == (3, 2.5, "yaml")
    assert (settings.ranks, settings.reuse, settings.threads) == (("y", "z"), False, None)


def test_the_yaml_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max_running: 7\n")
    assert resolved(environ={"TANDEM_EXAMPLE_CONFIG": str(file)}).max_running == 7


def test_empty_variables_and_empty_files_count_as_unset(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n")
    assert resolved(environ={"TANDEM_EXAMPLE_LISTEN": ""}, yaml=file).listen == "127.0.0.1:0"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolved().max_running = 3


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MAX_RUNING": "1"}, r"MAX_RUNING: no such setting\. Did you mean TANDEM_EXAMPLE_MAX_RUNNING\?"),
        ({"MAX_RUNNING": "x"}, "environment variable TANDEM_EXAMPLE_MAX_RUNNING: .*integer.*'x'"),
        ({"MAX_RUNNING": "0"}, "environment variable TANDEM_EXAMPLE_MAX_RUNNING: .*greater than 0"),
        ({"DTYPE": "int3"}, "environment variable TANDEM_EXAMPLE_DTYPE: .*float32"),
        ({"REUSE": "maybe"}, "environment variable TANDEM_EXAMPLE_REUSE"),
    ],
)
def test_bad_environment(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolved(environ=prefixed(environ))


def test_other_services_and_kubernetes_service_links_are_not_ours() -> None:
    links = {
        "TANDEM_EXAMPLE_SERVICE_HOST": "10.0.0.1",
        "TANDEM_EXAMPLE_SERVICE_PORT_GRPC": "50051",
        "TANDEM_EXAMPLE_PORT": "tcp://10.0.0.1:50051",
        "TANDEM_EXAMPLE_PORT_50051_TCP_ADDR": "10.0.0.1",
        "TANDEM_OTHER_THING": "1",
    }
    assert resolved(environ=links) == Example(model=Path("/m"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("max_runing: 1", r"max_runing: no such setting\. Did you mean max_running\?"),
        ("max_running: [1]", "settings.yaml: max_running: .*integer"),
        ("max_running: yes", "settings.yaml: max_running: expected integer, not a boolean"),
        ("- a\n- b", "expected `name: value` lines"),
        ("a: [", "cannot read settings"),
        ("!!python/object/apply:os.getcwd []", "cannot read settings"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        resolved(yaml=file)
    assert "\n" not in str(caught.value)


def test_a_yaml_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match="cannot read settings from /nowhere"):
        resolved(yaml=Path("/nowhere.yaml"))


def test_bad_and_missing_flags_are_named() -> None:
    with pytest.raises(SettingsError, match=r"flag --max-running: .*'many'"):
        resolved({"max_running": "many"})
    with pytest.raises(SettingsError, match=r"--model \(or TANDEM_EXAMPLE_MODEL, or model in the --config file\)"):
        resolve(Example, "TANDEM_EXAMPLE", {}, {})
