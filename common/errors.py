"""The error tree. What is raised here is understood everywhere; `common.status` turns it into gRPC statuses.

TandemError
├── InvalidRequest        a field of a request is at fault
├── NotFound              the named model is not served
├── Unauthenticated       the caller has not shown who it is
├── PermissionDenied      who the caller is was shown, and it is not let in
├── Overloaded            a bound is reached; waiting helps
│   └── QuotaExceeded     it is a bound of the caller's tenant
├── Unavailable           the service, or the rank group behind it, cannot serve now
├── DeadlineExceeded      the call's own deadline passed
├── Refused               a peer of the step stream broke its protocol
├── RequestFailed         this one request cannot go on (its logits are not finite, say)
├── SettingsError         flags, environment or YAML do not make valid settings
└── CheckpointError       a model directory is not what it says it is
"""


class TandemError(Exception):
    """Base of all errors that have a meaning outside the function that raises them.

    `reason` is the stable upper-case word that clients may compare (google.rpc.ErrorInfo.reason).
    """

    reason: str = "INTERNAL"


class InvalidRequest(TandemError):
    """A field of the caller's request is at fault. `field` is its path in the request message."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class NotFound(TandemError):
    """The request names a model that is not served."""

    reason = "MODEL_NOT_FOUND"


class Unauthenticated(TandemError):
    """The call carries no token that is known. What is wrong with it is never said."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(TandemError):
    """The caller's certificate is valid, and none of its names is allowed."""

    reason = "PERMISSION_DENIED"


class Overloaded(TandemError):
    """A bound of the service is reached. Trying again after `retry_after_s` may help."""

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QuotaExceeded(Overloaded):
    """The caller's tenant uses as much as it may."""

    reason = "QUOTA_EXCEEDED"


class Unavailable(TandemError):
    """The service cannot serve now: it is loading, draining, or its rank group is down."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(TandemError):
    """The call's own deadline passed, or would pass before work could start."""

    reason = "DEADLINE_EXCEEDED"


class Refused(TandemError):
    """A peer of the step stream sent what does not follow. `reason` says which rule it broke."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RequestFailed(TandemError):
    """This request cannot go on; others are unharmed."""

    reason = "REQUEST_FAILED"


class SettingsError(TandemError):
    """Flags, environment and YAML do not make valid settings."""

    reason = "BAD_SETTINGS"


class CheckpointError(TandemError):
    """A model directory is missing, damaged, or not in a form that can be served."""

    reason = "BAD_CHECKPOINT"
