"""`tandem top`: a live view of a cluster, from the metrics that its gateways serve."""
