"""All figures of a gateway: what calls, requests and steps record, and what is read off the step loop when asked."""

from common.telemetry.metrics import Metrics
from gateway.metrics.call_metrics import CallMetrics
from gateway.metrics.request_metrics import RequestMetrics
from gateway.metrics.step_metrics import StepMetrics


class GatewayMetrics:
    """What the gateway's parts record into. Every series carries the model's name, of which a gateway has one."""

    def __init__(self, model_name: str) -> None:
        self.registry = Metrics({"model_name": model_name})
        self.calls = CallMetrics(self.registry)
        self.requests = RequestMetrics(self.registry)
        self.steps = StepMetrics(self.registry, self.requests)
