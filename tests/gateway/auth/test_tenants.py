"""The file of tenants: what is found in it, and what is refused without quoting it."""

from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from common.cli.main import tandem
from common.errors import SettingsError
from gateway.auth.tenants import MAX_TOKENS, Tenant, read_tenants

SECRET = "canary-5f1c"


def hashed(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def written(folder: Path, content: object) -> Path:
    path = folder / "tenants.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_each_token_is_its_tenants(tmp_path: Path) -> None:
    entries = [
        {"tenant": "a", "sha256": hashed("old"), "max_streams": 2, "max_tokens_per_minute": 100},
        {"tenant": "a", "sha256": hashed("new"), "max_streams": 2, "max_tokens_per_minute": 100},
        {"tenant": "b", "sha256": hashed("other")},
    ]
    table = read_tenants(written(tmp_path, entries))
    assert table.find(b"old") == table.find(b"new") == Tenant("a", 2, 100)
    assert table.find(b"other") == Tenant("b")
    for wrong in (b"", b"ol", b"oldx", hashed("old").encode(), bytes.fromhex(hashed("old"))):
        assert table.find(wrong) is None


@pytest.mark.parametrize("content", ["", "[]", "# nobody yet\n"])
def test_an_empty_file_lets_nobody_in(content: str, tmp_path: Path) -> None:
    assert read_tenants(written(tmp_path, content)).find(b"") is None


@pytest.mark.parametrize(
    "content, named",
    [
        ("a: [b", "neither YAML nor JSON"),
        ({"tenant": "a"}, "list"),
        ([{"tenant": "a", "sha256": SECRET}], "entry 1.sha256"),
        ([{"tenant": "a", "token": SECRET, "sha256": "0" * 64}], "entry 1.token"),
        ([{"tenant": "a b", "sha256": "0" * 64}], "entry 1.tenant"),
        ([{"tenant": "a", "sha256": "0" * 64, "max_streams": 0}], "entry 1.max_streams"),
        ([{"tenant": "a", "sha256": "0" * 64}] * 2, "entry 2: this token"),
        (
            [{"tenant": "a", "sha256": "0" * 64}, {"tenant": "a", "sha256": "1" * 64, "max_streams": 1}],
            "entry 2: tenant a has other limits",
        ),
        ([{"tenant": "a", "sha256": f"{n:064x}"} for n in range(MAX_TOKENS + 1)], str(MAX_TOKENS)),
    ],
)
def test_a_wrong_file_is_refused_and_not_quoted(content: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_tenants(written(tmp_path, content))
    assert named in str(caught.value) and "tenants.yaml" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_tandem_token_makes_what_the_file_takes(tmp_path: Path) -> None:
    secret, tenants = tmp_path / "a.token", tmp_path / "tenants.yaml"
    text = ""
    for name in ("one", "two"):
        flags = ["--out", str(tmp_path / f"{name}.token"), "--max-streams", "3", "--max-tokens-per-minute", "50"]
        made = CliRunner().invoke(tandem, ["token", name, *flags])
        assert made.exit_code == 0
        text += made.stdout
    tenants.write_text(text)
    secret = tmp_path / "two.token"
    token = secret.read_text().strip()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(token) > 40 and token not in text
    assert read_tenants(tenants).find(token.encode()) == Tenant("two", 3, 50)
    again = CliRunner().invoke(tandem, ["token", "two", "--out", str(secret)])
    assert again.exit_code == 1 and "file exists" in again.output, "no token is overwritten"
