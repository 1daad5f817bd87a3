"""The contracts: stubs as the generators make them, every name explained, tensors with type and shape."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "proto"
BUF = Path(sys.executable).with_name("buf")
# The contracts between gateway and workers, whose bytes fields are tensors.
WORKER_CONTRACTS = [folder for folder in ("tandem/shard/v1", "tandem/draft/v1") if (PROTO / folder).exists()]
NOT_TENSORS = {"Frame.plan"}
# u32[R], i32[sum of row_lengths], f32[P, m], i32[*]
TYPE_AND_SHAPE = re.compile(r"\b[uif](8|16|32|64)\[[^\]]+\]")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of proto/ and of buf's settings that a test may spoil."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return Path(shutil.copytree(PROTO, tmp_path / "proto", ignore=shutil.ignore_patterns("__pycache__")))


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `command` with an empty PATH: nothing may depend on an activated environment."""
    return subprocess.run(command, cwd=cwd, env={"PATH": ""}, capture_output=True, text=True, check=False)


def test_stubs_are_what_the_generators_make() -> None:
    result = run(sys.executable, PROTO / "generate.py", "--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_changed_a_missing_and_a_left_over_stub_are_seen(copied: Path) -> None:
    stubs = copied / "tandem" / "v1"
    with (stubs / "sampling_pb2.pyi").open("a") as changed:
        changed.write("#\n")
    (stubs / "sampling_pb2.py").unlink()
    (stubs / "gone_pb2.py").touch()
    result = run(sys.executable, copied / "generate.py", "--check")
    assert result.returncode == 1
    assert [line.split(" (")[0] for line in result.stderr.splitlines()] == [
        "stale stub: proto/tandem/v1/gone_pb2.py",
        "stale stub: proto/tandem/v1/sampling_pb2.py",
        "stale stub: proto/tandem/v1/sampling_pb2.pyi",
    ]
    run(sys.executable, copied / "generate.py")
    assert (stubs / "sampling_pb2.py").read_bytes() == (PROTO / "tandem/v1/sampling_pb2.py").read_bytes()


def test_buf_finds_nothing() -> None:
    result = run(BUF, "lint")
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("addition", "rule"),
    [
        ("message Silent {}", "message"),
        ("// Loud.\nmessage Loud {\n  int32 silent = 1;\n}", "field"),
        ("// Loud.\nenum Loud {\n  LOUD_UNSPECIFIED = 0;\n}", "enum value"),
        (
            "// Loud.\nservice LoudService {\n  rpc Ask(AskRequest) returns (AskResponse);\n}\n"
            "// A.\nmessage AskRequest {}\n// B.\nmessage AskResponse {}",
            "rpc",
        ),
    ],
)
def test_buf_sees_a_name_without_a_comment(copied: Path, addition: str, rule: str) -> None:
    with (copied / "tandem" / "v1" / "sampling.proto").open("a") as proto:
        proto.write(addition)
    result = run(BUF, "lint", cwd=copied.parent)
    lines = result.stdout.splitlines()
    assert result.returncode != 0
    assert len(lines) == 1 and "should have a non-empty comment" in lines[0] and rule in lines[0].lower()


def test_stubs_load_without_a_warning() -> None:
    names = [
        str(path.relative_to(PROTO).with_suffix("")).replace("/", ".") for path in sorted(PROTO.rglob("*_pb2*.py"))
    ]
    assert "tandem.v1.inference_service_pb2_grpc" in names
    result = run(sys.executable, "-W", "error", "-c", f"import {', '.join(names)}", cwd=PROTO)
    assert (result.returncode, result.stderr) == (0, "")


def files(folder: Path) -> list[FileDescriptorProto]:
    """Return the protos below `folder` with their comments, as protoc reads them."""
    target = folder / "descriptors"
    protos = sorted(
        str(path.relative_to(PROTO)) for name in WORKER_CONTRACTS for path in (PROTO / name).glob("*.proto")
    )
    arguments = ("--include_source_info", f"-I{PROTO}", f"--descriptor_set_out={target}", *protos)
    result = run(sys.executable, "-m", "grpc_tools.protoc", *arguments)
    assert result.returncode == 0, result.stderr
    return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def bytes_fields(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Yield ("Message.field", its comment) of every bytes field of `file`."""
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    message_number = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
    for i, message in enumerate(file.message_type):
        assert not message.nested_type, f"{message.name}: the check does not look into nested messages"
        for j, field in enumerate(message.field):
            if field.type == FieldDescriptorProto.TYPE_BYTES:
                path = (message_number, i, DescriptorProto.FIELD_FIELD_NUMBER, j)
                yield f"{message.name}.{field.name}", comments[path]


def test_tensors_say_their_type_and_shape(tmp_path: Path) -> None:
    fields = {name: comment for file in files(tmp_path) for name, comment in bytes_fields(file)}
    assert "Plan.token_ids" in fields and fields.keys() >= NOT_TENSORS
    assert [
        name for name, comment in fields.items() if name not in NOT_TENSORS and not TYPE_AND_SHAPE.search(comment)
    ] == []


@pytest.mark.parametrize("comment", ["ids are tokens.", "ids. i32", "ids. i32[]", "ids. int32[R]", "ids. x7i32[R]"])
def test_a_comment_without_type_or_shape_is_seen(comment: str) -> None:
    assert not TYPE_AND_SHAPE.search(comment)
