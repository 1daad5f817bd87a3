"""Which draft workers and hosts of ranks are there now? Static lists, the DNS, or Kubernetes' EndpointSlices."""
