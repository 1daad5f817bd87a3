"""The template's process: what it renders, its limits, and how it ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import psutil
import pytest

from common.errors import CheckpointError, InvalidRequest
from gateway.chat.template import WORKER, ChatTemplate

T = TypeVar("T")
MESSAGES = [{"role": "user", "content": 'hi "<there>" é😀\n'}]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def use(source: str, body: Callable[[ChatTemplate], Awaitable[T]], timeout_s: float = 20) -> T:
    async def run() -> T:
        template = ChatTemplate(source, VARIABLES, timeout_s, 1000)
        try:
            await template.start()
            return await body(template)
        finally:
            await template.close()

    return asyncio.run(run())


def render(source: str, messages: Any = MESSAGES) -> str:
    return use(source, lambda template: template.render(messages))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", '<s>hi "<there>" é😀\n</s>'),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi \\"<there>\\" é😀\\n"}]'),
        ("{{ {'b': 1, 'a': [2]} | tojson(indent=1, sort_keys=true) }}", '{\n "a": [\n  2\n ],\n "b": 1\n}'),
        ("{{ strftime_now('%Y') }}", str(datetime.now().year)),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("  {% if add_generation_prompt %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{% generation %}a{{ messages | length }}{% endgeneration %}", "a1"),
        ("{% set n = namespace(a=1) %}{% for i in range(3) %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}", "4"),
        ("{{ tools is none }}{{ missing is defined }}{{ missing }}", "TrueFalse"),
        ("\0\u2028\u0085", "\0\u2028\u0085"),
        ("", ""),
    ],
)
def test_renders_as_transformers_does(source: str, expected: str) -> None:
    from transformers.utils import chat_template_utils

    variables: dict[str, Any] = {"chat_template": source, "add_generation_prompt": True, **VARIABLES}
    reference = chat_template_utils.render_jinja_template([MESSAGES], **variables)
    assert render(source) == reference[0][0] == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ raise_exception('x' * 500) }}", "x" * 200),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception.__globals__.os }}", "unsafe"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "namespace"),
        ("{{ namespace(__class__=1) }}", "namespace"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ none.x.y }}", "None"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * (2 ** 34) }}", "MemoryError"),
        ("{% for i in range(2000) %}a{% endfor %}", "longer than 1000"),
        ("{{ 'a' * 1001 }}", "longer than 1000"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
    ],
)
def test_what_a_template_cannot_do_is_the_requests_fault(source: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        render(source)
    assert raised.value.field == "chat"
    assert reason in raised.value.description
    assert len(raised.value.description) < 240


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% nonsense %}", "{% include 'x' %}{% endif %}"])
def test_an_invalid_template_is_refused_at_start(source: str) -> None:
    with pytest.raises(CheckpointError, match="template is not valid"):
        render(source)


def test_the_largest_allowed_text_passes_whatever_its_characters() -> None:
    assert render("{{ messages[0].content * 10 }}", [{"role": "user", "content": "\0" * 100}]) == "\0" * 1000
    assert render("{{ messages[0].content * 10 }}", [{"role": "user", "content": "😀" * 100}]) == "😀" * 1000


def test_a_render_that_takes_too_long_is_ended_and_the_next_one_works() -> None:
    endless = "{% if messages[0].content == 'x' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}"
    endless += "{% endfor %}{% endif %}fine"

    async def body(template: ChatTemplate) -> None:
        first = _pid(template)
        began = time.monotonic()
        with pytest.raises(InvalidRequest, match=r"longer than 0\.3 s"):
            await template.render([{"role": "user", "content": "x"}])
        assert 0.3 <= time.monotonic() - began < 5
        assert not psutil.pid_exists(first)
        # On a busy machine even an easy render can take longer than this test's short limit.
        for _ in range(20):
            try:
                assert await template.render(MESSAGES) == "fine"
                return
            except InvalidRequest:
                continue
        pytest.fail("no render worked after the slow one")

    use(endless, body, timeout_s=0.3)


def test_a_cancelled_render_does_not_answer_the_next_one() -> None:
    slow = "{% for i in range(99999) %}{% endfor %}" * 3 + "{{ messages[0].content }}"

    async def body(template: ChatTemplate) -> None:
        task = asyncio.create_task(template.render([{"role": "user", "content": "first"}]))
        await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await template.render([{"role": "user", "content": "second"}]) == "second"

    use(slow, body)


def test_overlapping_renders_get_their_own_answers() -> None:
    async def body(template: ChatTemplate) -> list[str]:
        questions = [[{"role": "user", "content": str(i)}] for i in range(50)]
        return list(await asyncio.gather(*map(template.render, questions)))

    assert use("{{ messages[0].content }}", body) == [str(i) for i in range(50)]


def test_a_lost_process_is_started_again() -> None:
    async def body(template: ChatTemplate) -> None:
        process = template._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        assert await template.render(MESSAGES) == "x"
        assert _pid(template) != process.pid

    use("x", body)


def test_the_process_ends_with_its_parent() -> None:
    code = (
        "import asyncio, sys, os\n"
        "from gateway.chat.template import ChatTemplate\n"
        "async def run():\n"
        "    template = ChatTemplate('x', {}, 20, 1000)\n"
        "    await template.start()\n"
        "    print(template._process.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(run())\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60)
    assert finished.returncode == -signal.SIGKILL
    pid = int(finished.stdout)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)


def test_an_orphan_in_an_endless_render_is_ended_by_its_alarm() -> None:
    settings = b'{"template": "%s", "variables": {}, "max_chars": 9, "alarm_s": 1}\n'
    endless = b"{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    worker = subprocess.run(
        [sys.executable, "-I", str(WORKER)],
        input=settings.replace(b"%s", endless) + b"[]\n",
        stdout=subprocess.PIPE,
        timeout=60,
    )
    assert worker.returncode == -signal.SIGALRM
    assert worker.stdout == b'{"text": ""}\n'


def test_the_process_imports_little() -> None:
    code = f"import runpy, sys; runpy.run_path({str(WORKER)!r}); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE, check=True).stdout.split()
    assert b"jinja2" in modules
    assert not {b"numpy", b"tokenizers", b"torch", b"asyncio", b"grpc"} & set(modules)


def test_the_gateways_side_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, gateway.chat.encoder, gateway.detokenizer, gateway.tokenizers.load\n"
        "print(sorted({'torch', 'transformers', 'mistral_common'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"[]\n"


def _pid(template: ChatTemplate) -> int:
    assert template._process is not None
    return template._process.pid
