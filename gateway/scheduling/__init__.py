"""Continuous batching: which sequences run in a step, on which token ids, in which KV blocks.

A deterministic core without clocks, I/O or asyncio: the step loop drives it by `Scheduler.plan` and `commit`.
"""
