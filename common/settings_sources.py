"""Where settings come from: flags, then environment variables, then a YAML file, then defaults."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from common.cli.suggest import did_you_mean
from common.errors import SettingsError
from common.settings import Settings

S = TypeVar("S", bound=Settings)
F = TypeVar("F", bound=Callable[..., Any])

# Kubernetes sets these in every pod for each Service of the namespace, also for one called tandem-gateway.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$")


class _Given(NamedTuple):
    value: object
    source: str


def settings_options(cls: type[Settings]) -> Callable[[F], F]:
    """Return a decorator that gives a click command `--config` and one flag per field of `cls`.

    Flags arrive in the command as keyword arguments named like the fields: None or () where not given. Only
    `resolve` converts and checks their values, so that every source is judged alike.
    """

    def decorate(command: F) -> F:
        for name, field in reversed(cls.model_fields.items()):
            command = _option(name, field)(command)
        return click.option("--config", type=click.Path(path_type=Path), help="YAML file of settings")(command)

    return decorate


def resolve(
    cls: type[S],
    prefix: str,
    flags: Mapping[str, object],
    environ: Mapping[str, str] = os.environ,
    yaml_file: Path | None = None,
) -> S:
    """Return the one frozen settings object that all sources together make.

    `prefix` begins the service's environment variables: TANDEM_GATEWAY reads TANDEM_GATEWAY_MAX_RUNNING. An
    empty variable counts as unset. `yaml_file` defaults to the file that <prefix>_CONFIG names.

    Raises SettingsError, naming the source, on unknown names and on values that do not fit.
    """
    if yaml_file is None and environ.get(f"{prefix}_CONFIG"):
        yaml_file = Path(environ[f"{prefix}_CONFIG"])
    given = (
        (_from_yaml(cls, yaml_file) if yaml_file else {})
        | _from_environment(cls, prefix, environ)
        | _from_flags(cls, flags)
    )
    try:
        return cls.model_validate({name: _prepared(cls.model_fields[name], item) for name, item in given.items()})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(e, given, prefix) for e in error.errors())) from error


def _from_flags(cls: type[Settings], flags: Mapping[str, object]) -> dict[str, _Given]:
    return {
        name: _Given(value, f"flag {_flag(name)}")
        for name, value in flags.items()
        if name in cls.model_fields and value is not None and value != ()
    }


def _from_environment(cls: type[Settings], prefix: str, environ: Mapping[str, str]) -> dict[str, _Given]:
    variables = {f"{prefix}_{name.upper()}": name for name in cls.model_fields}
    given = {}
    for variable, value in environ.items():
        if variable in variables and value:
            given[variables[variable]] = _Given(value, f"environment variable {variable}")
        elif (
            variable.startswith(f"{prefix}_")
            and variable not in variables
            and variable != f"{prefix}_CONFIG"
            and not _SERVICE_LINK.search(variable)
        ):
            raise SettingsError(f"environment variable {variable}: no such setting.{did_you_mean(variable, variables)}")
    return given


def _from_yaml(cls: type[Settings], path: Path) -> dict[str, _Given]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read settings from {path}: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected `name: value` lines")
    for key in content:
        if key not in cls.model_fields:
            raise SettingsError(f"{path}: {key}: no such setting.{did_you_mean(str(key), cls.model_fields)}")
    return {key: _Given(value, f"{path}: {key}") for key, value in content.items()}


def _prepared(field: FieldInfo, item: _Given) -> object:
    """Split lists written with commas; refuse YAML's `yes` where a number is wanted (Python's True is 1)."""
    kind, value = _kind(field.annotation), item.value
    if isinstance(value, bool) and kind is not bool:
        raise SettingsError(f"{item.source}: expected {_type_name(kind)}, not a boolean")
    if kind is not tuple or not isinstance(value, str | tuple):
        return value
    parts = (value,) if isinstance(value, str) else value
    return tuple(piece.strip() for part in parts for piece in part.split(",") if piece.strip())


def _explain(problem: Mapping[str, Any], given: Mapping[str, _Given], prefix: str) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{_flag(name)} (or {prefix}_{name.upper()}, or {name} in the --config file) is needed"
    source = given[name].source if name in given else f"default of {name}"
    return f"{source}: {problem['msg'].removeprefix('Value error, ')} (is {problem['input']!r})"


def _option(name: str, field: FieldInfo) -> Callable[[F], F]:
    kind = _kind(field.annotation)
    default = field.default
    note = " [required]" if field.is_required() else "" if default in (None, "", ()) else f" [default: {default}]"
    text = f"{field.description or ''}{note}"
    if kind is bool:
        return click.option(f"{_flag(name)}/--no-{_flag(name)[2:]}", name, default=None, help=text)
    if get_origin(kind) is Literal:
        return click.option(_flag(name), name, type=click.Choice([str(c) for c in get_args(kind)]), help=text)
    if kind is tuple:
        return click.option(_flag(name), name, multiple=True, metavar="TEXT[,TEXT...]", help=text)
    return click.option(_flag(name), name, metavar=_type_name(kind).upper(), help=text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _kind(annotation: Any) -> Any:
    """Return the plain type behind Annotated[X], X | None and tuple[X, ...]; a Literal stays itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin in (Literal, None):
        return annotation
    if origin is tuple:
        return tuple
    (inner,) = [a for a in get_args(annotation) if a is not NoneType]
    return _kind(inner)


def _type_name(kind: Any) -> str:
    return {int: "integer", float: "number", Path: "path", tuple: "list"}.get(kind, "text")
