"""The leak check sees what is left behind, waits for what is going, and forgives nothing else."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.leaks import held, leaked


def test_sees_a_thread_and_waits_for_one_that_ends() -> None:
    before = held()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="stayer")
    thread.start()
    try:
        assert [line.split(" (")[0] for line in leaked(before, 0)] == ["thread stayer"]
        threading.Timer(0.2, stop.set).start()
        assert leaked(before, 5) == []
    finally:
        stop.set()
        thread.join()


def test_does_not_mind_a_daemon_thread() -> None:
    before = held()
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    assert leaked(before, 0) == []
    stop.set()


def test_sees_a_child_process_until_it_is_waited_for() -> None:
    before = held()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as child:
        try:
            # Between fork and exec the child still has this process's command line.
            assert any(line.startswith(f"process {child.pid}: ") for line in leaked(before, 0))
        finally:
            child.kill()
        deadline_s = time.monotonic() + 10
        while leaked(before, 0) != [f"process {child.pid}: (ended, not waited for)"]:
            assert time.monotonic() < deadline_s
    assert leaked(before, 0) == []


def test_sees_files_and_sockets(tmp_path: Path) -> None:
    before = held()
    path = tmp_path / "open"
    with path.open("w"), path.open("r"), socket.socket() as listener:
        inode = os.fstat(listener.fileno()).st_ino
        assert leaked(before, 0) == [f"descriptor {path}", f"descriptor {path}", f"descriptor socket:[{inode}]"]
    assert leaked(before, 0) == []


def test_what_a_reference_cycle_holds_is_no_leak() -> None:
    before = held()
    cycle = Owner()
    cycle.itself = cycle
    del cycle
    assert leaked(before, 0) == []


class Owner:
    """Owns a pipe for as long as it lives."""

    def __init__(self) -> None:
        self.itself: object = None
        self.descriptors = os.pipe()

    def __del__(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


LEAKY_MODULE = """
import pytest

@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    with (tmp_path_factory.mktemp("kept") / "of_the_session").open("w") as file:
        yield file

def test_comes_before_the_session_fixture():
    pass

def test_opens(kept, request, tmp_path):
    request.config.stash[pytest.StashKey()] = (tmp_path / "forgotten").open("w")
"""


def test_a_leaky_module_fails_and_a_session_fixture_is_no_leak(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    folder = tmp_path / "leaky"  # a conftest below pytest's root, as here
    folder.mkdir()
    conftest = (root / "tests" / "conftest.py").read_text()
    (folder / "conftest.py").write_text(re.sub("^PATIENCE_S = .*", "PATIENCE_S = 0.0", conftest, flags=re.MULTILINE))
    (folder / "test_leaky.py").write_text(LEAKY_MODULE)
    # The terminal's report depends on CI, on colours and on what PYTEST_ADDOPTS asks for; this one does not.
    report = tmp_path / "report.xml"
    options = ["--import-mode=importlib", f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'base'}"]
    command = [sys.executable, "-m", "pytest", *options, f"--junit-xml={report}", str(folder)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ["PYTHONPATH"] = f"{root}:{root / 'proto'}"
    result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    outcomes = {
        case.attrib["name"]: [(outcome.tag, outcome.text or "") for outcome in case]
        for case in ElementTree.parse(report).iter("testcase")
    }
    assert outcomes.keys() == {"test_comes_before_the_session_fixture", "test_opens"}, outcomes
    assert outcomes["test_comes_before_the_session_fixture"] == []
    ((tag, text),) = outcomes["test_opens"]
    assert tag == "error"
    assert re.fullmatch(r"left behind by this module:\n  descriptor .+/forgotten\n?", text), text


def test_sees_a_variable_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = held()
    monkeypatch.setenv("TANDEM_FORGOTTEN", "1")
    assert leaked(before, 0) == ["environment TANDEM_FORGOTTEN=1"]
