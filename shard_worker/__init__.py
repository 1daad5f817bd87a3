"""The shard worker: one rank of a tensor-parallel group. Holds weights and KV cache, decides nothing."""
