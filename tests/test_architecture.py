"""The rules of the house: who may import whom, how long a file may be, and what no file may do."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 300

# The arrows: proto (its stubs are the package `tandem`) <- common <- gateway | shard_worker <- draft_worker.
FOLDERS = {
    "tandem": "proto/tandem",
    "common": "common",
    "gateway": "gateway",
    "shard_worker": "shard_worker",
    "draft_worker": "draft_worker",
}
MAY_IMPORT = {
    "tandem": {"tandem"},
    "common": {"tandem", "common"},
    "gateway": {"tandem", "common", "gateway"},
    "shard_worker": {"tandem", "common", "shard_worker"},
    "draft_worker": {"tandem", "common", "shard_worker", "draft_worker"},
}
# What only a rank may need, and what only tests may: foreign implementations of what is built here.
OF_A_RANK = {"torch", "safetensors", "gguf", "huggingface_hub"}
OF_TESTS = {"transformers", "mistral_common", "scipy", "hypothesis", "pytest", "psutil", "tests"}
STUBS_IMPORT = {"tandem", "google", "grpc"}

# Everything that pickles, that runs text as code, or that hands text to a shell.
FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("multiprocessing", "torch.multiprocessing", "concurrent.futures.process"),
}
FORBIDDEN_NAMES = {
    *("torch.load", "torch.save", "torch.jit.load", "concurrent.futures.ProcessPoolExecutor"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "eval", "exec", "builtins.eval", "builtins.exec"),
}
# Who reads and writes files of torch.save: a child process that has nothing to lose, and the tests in others' name.
EXCEPTIONS = {
    "torch.load": "shard_worker/checkpoint/torch_child.py",
    "torch.save": "tests/support/foreign_checkpoints.py",
}
FORBIDDEN_ATTRIBUTES = {
    *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"),
    *("send_object_list", "recv_object_list", "subprocess_shell", "trust_remote_code"),
}
FORBIDDEN_KEYWORDS = {"trust_remote_code", "allow_pickle", "shell"}


def sources(folder: Path) -> Iterator[Path]:
    """Yield the Python files below `folder`, environments and build outputs left out."""
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in ("build", "dist")]
        yield from (Path(path) / name for name in files if name.endswith(".py"))


def is_generated(path: Path) -> bool:
    return "_pb2" in path.stem


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, wherever it stands: a.b for `from a import b`.

    Relative imports stay within their package and are left out.
    """
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield node.lineno, module


def wrong_arrows(package: str, source: str) -> list[str]:
    """Return "line: module" for each import in `source`, a file of `package`, that the table does not allow."""
    wrong = []
    for line, name in imports(ast.parse(source)):
        top = name.partition(".")[0]
        bad = top in FOLDERS and top not in MAY_IMPORT[package]
        bad |= top in OF_TESTS
        bad |= top in OF_A_RANK and package not in ("shard_worker", "draft_worker")
        bad |= package == "tandem" and top not in STUBS_IMPORT | sys.stdlib_module_names
        if bad:
            wrong.append(f"{line}: {package} may not import {name}")
    return wrong


def forbidden(source: str) -> list[str]:
    """Return "line: name" for each thing in `source` that no file may do."""
    tree = ast.parse(source)
    found = {(line, name) for line, name in imports(tree) if _is_forbidden_module(name) or _is_forbidden_name(name)}
    names = _bound_by_imports(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Name() | ast.Attribute():
                name = _dotted(node, names)
                if _is_forbidden_name(name):
                    found.add((node.lineno, name))
            case ast.keyword(arg=str(arg), value=value) if arg in FORBIDDEN_KEYWORDS:
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.add((value.lineno, f"{arg}="))
            case ast.Dict(keys=keys):
                literals = {key.value for key in keys if isinstance(key, ast.Constant)}
                found |= {(node.lineno, f"{word}=") for word in FORBIDDEN_KEYWORDS if word in literals}
    return [f"{line}: {name}" for line, name in sorted(found)]


def _is_forbidden_module(name: str) -> bool:
    parts = name.split(".")
    chain = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
    return bool(chain & FORBIDDEN_MODULES)


def _is_forbidden_name(name: str) -> bool:
    return name in FORBIDDEN_NAMES or name.rpartition(".")[2] in FORBIDDEN_ATTRIBUTES


def _bound_by_imports(tree: ast.AST) -> dict[str, str]:
    """Map each name that an import binds to what it stands for: `import torch as t` makes t torch."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                bound |= {alias.asname: alias.name for alias in node.names if alias.asname}
            case ast.ImportFrom(module=str(module), level=0):
                bound |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return bound


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return names.get(name, name)
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value, names)}.{attr}"
        case _:
            return "?"


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_follow_the_arrows(package: str) -> None:
    folder = ROOT / FOLDERS[package]
    if package == "draft_worker" and not folder.exists():
        pytest.skip("no draft worker in this tree")
    paths = list(sources(folder))
    assert paths
    wrong = [f"{path.relative_to(ROOT)}:{line}" for path in paths for line in wrong_arrows(package, path.read_text())]
    assert wrong == []


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(ROOT) if not is_generated(path)}
    assert Path(__file__) in lengths
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_no_file_does_what_is_forbidden() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources(ROOT)
        for line in forbidden(path.read_text())
        # A test may see to it that a command behaves in a shell's pipe.
        if not (path.is_relative_to(ROOT / "tests") and line.endswith(" shell="))
    ]
    excepted = {(path, name) for name, path in EXCEPTIONS.items()}
    places = [(line.partition(":")[0], line.rpartition(" ")[2]) for line in found]
    assert set(places) == excepted, found
    assert len(places) == len(excepted), "one call each"


# OpenTelemetry's SDK looks for psutil by itself, and does without.
@pytest.mark.parametrize(
    ("package", "foreign"), [("gateway", OF_A_RANK | OF_TESTS), ("common", (OF_A_RANK | OF_TESTS) - {"psutil"})]
)
def test_a_service_without_a_model_loads_no_model_code(package: str, foreign: set[str]) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources(ROOT / package)
    ]
    assert f"{package}.server" in modules or package == "common"
    code = f"import {', '.join(sorted(modules))}, sys; print(*sorted(sys.modules.keys() & {foreign!r}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("common", "import torch"),
        ("common", "from gateway import server"),
        ("common", "def f():\n    import torch.nn as nn"),
        ("common", "import importlib\nimportlib.import_module('shard_worker.engine')"),
        ("gateway", "from torch import Tensor"),
        ("gateway", "from safetensors.numpy import load_file"),
        ("gateway", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shard_worker.engine"),
        ("gateway", "import os, transformers"),
        ("shard_worker", "from gateway.settings import GatewaySettings"),
        ("shard_worker", "import draft_worker"),
        ("shard_worker", "from tests.support import plans"),
        ("draft_worker", "import gateway.scheduling.plan"),
        ("tandem", "import common.errors"),
        ("tandem", "import numpy"),
    ],
)
def test_a_wrong_arrow_is_seen(package: str, source: str) -> None:
    assert len(wrong_arrows(package, source)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("common", "import tandem.v1.sampling_pb2, grpc, numpy"),
        ("gateway", "from common import errors\nfrom . import torch"),
        ("shard_worker", "import torch, safetensors, common.errors"),
        ("draft_worker", "from shard_worker.engine import Engine"),
        ("tandem", "import warnings, grpc\nfrom google.protobuf import message\nfrom tandem.v1 import sampling_pb2"),
    ],
)
def test_a_right_arrow_is_not(package: str, source: str) -> None:
    assert wrong_arrows(package, source) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads as read",
        "import marshal as m",
        "def f():\n    import shelve",
        "from multiprocessing import Pool",
        "import multiprocessing.connection",
        "from torch import multiprocessing",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures as f\nf.ProcessPoolExecutor()",
        "import torch\ntorch.load('x')",
        "import torch as t\nread = t.load",
        "from torch import load",
        "import torch.distributed as dist\ndist.broadcast_object_list([1])",
        "from torch.distributed import all_gather_object",
        "open_model('x', trust_remote_code=True)",
        "options = {'trust_remote_code': True}",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')",
        "run = exec",
        "import os\nos.system('ls')",
        "from os import popen",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import asyncio\nasyncio.create_subprocess_shell('ls')",
    ],
)
def test_a_forbidden_thing_is_seen(source: str) -> None:
    assert forbidden(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nmodel = torch.nn.Linear(1, 1).eval()",
        "import json\njson.load(open('x'))",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import asyncio\nasyncio.create_subprocess_exec('ls')",
        "text = 'import pickle; eval(1)'",
    ],
)
def test_a_permitted_thing_is_not(source: str) -> None:
    assert forbidden(source) == []


def test_environments_and_build_outputs_are_not_ours(tmp_path: Path) -> None:
    for name in ("a.py", ".venv/b.py", "build/c.py", "d/e.py", "d/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert sorted(path.name for path in sources(tmp_path)) == ["a.py", "e.py"]
