"""Failed calls as a client sees them: the status code and the google.rpc details that came with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from common.status import DETAILS_KEY, DOMAIN


@dataclass(frozen=True)
class Problem:
    """What a call failed with. `field` is the path of the field at fault, None where none is."""

    code: grpc.StatusCode
    reason: str
    message: str
    field: str | None = None
    retry_after_s: float | None = None


def problem_of(call: Callable[..., object], *arguments: Any) -> Problem:
    """Make a call that must fail, and return what it failed with; checks that the details fit the status."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    return read_problem(caught.value)


def read_problem(error: grpc.RpcError) -> Problem:
    """Return what came with an error; details are absent where grpc itself, not the service, ended the call."""
    assert isinstance(error, grpc.Call)
    code, message = error.code(), error.details() or ""
    data = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if data is None:
        return Problem(code, "", message)
    assert isinstance(data, bytes)
    status = Status.FromString(data)
    assert (status.code, status.message) == (code.value[0], message)
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    field = retry_after_s = None
    for detail in status.details:
        if detail.Unpack(bad_request):
            (violation,) = bad_request.field_violations
            assert violation.description
            field = violation.field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        else:
            assert detail.Unpack(info) and info.domain == DOMAIN
    return Problem(code, info.reason, message, field, retry_after_s)
