"""How our gRPC channels and servers are set: the one place for grpc options.

Both ends of a connection must agree on keepalive, or the server ends healthy connections with too_many_pings.
In grpcio 1.85 `grpc.keepalive_timeout_ms` alone changes nothing (grpc/grpc#39239): a dead peer is found
only through `grpc.http2.ping_timeout_ms`, so both are set. C-core ignores names it does not know.
"""

from dataclasses import dataclass

import grpc

from common.tls import ClientTls

PUBLIC_MESSAGE_BYTES = 4 << 20
INTERNAL_MESSAGE_BYTES = 64 << 20  # a rank's whole slice of logits, many times over
MAX_METADATA_BYTES = 16 << 10

Options = list[tuple[str, int]]


@dataclass(frozen=True)
class Keepalive:
    """A silent peer is pinged after `time_ms` and given up when it does not answer within `timeout_ms`."""

    time_ms: int = 5_000
    timeout_ms: int = 2_000


DEFAULT_KEEPALIVE = Keepalive()


def server_options(
    max_message_bytes: int = PUBLIC_MESSAGE_BYTES,
    keepalive: Keepalive = DEFAULT_KEEPALIVE,
    max_concurrent_streams: int = 1024,
) -> Options:
    """Return the options of a grpc.aio server that takes messages of at most `max_message_bytes`."""
    return [
        *_shared_options(keepalive),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", INTERNAL_MESSAGE_BYTES),
        # Clients may ping idle connections ten times as often as ours do.
        ("grpc.http2.min_ping_interval_without_data_ms", keepalive.time_ms // 10),
        ("grpc.max_concurrent_streams", max_concurrent_streams),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.so_reuseport", 0),  # a busy port is an error, not a second server on it
    ]


def client_options(max_message_bytes: int = PUBLIC_MESSAGE_BYTES, keepalive: Keepalive = DEFAULT_KEEPALIVE) -> Options:
    """Return the options of a channel that takes messages of at most `max_message_bytes`."""
    return [
        *_shared_options(keepalive),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # in truth the time one connection attempt gets
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.use_local_subchannel_pool", 1),  # no connection or backoff shared behind our back
        ("grpc.enable_http_proxy", 0),
    ]


def open_channel(
    address: str,
    max_message_bytes: int = PUBLIC_MESSAGE_BYTES,
    keepalive: Keepalive = DEFAULT_KEEPALIVE,
    tls: ClientTls | None = None,
) -> grpc.aio.Channel:
    """Return a channel to `address`: host:port, unix:/path, or any target that grpc resolves.

    It is plaintext without `tls`, and to unix sockets always. Links between our own services pass
    INTERNAL_MESSAGE_BYTES.
    """
    options = client_options(max_message_bytes, keepalive)
    if tls is None or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, tls.credentials, [*options, *tls.options])


def _shared_options(keepalive: Keepalive) -> Options:
    return [
        ("grpc.keepalive_time_ms", keepalive.time_ms),
        ("grpc.keepalive_timeout_ms", keepalive.timeout_ms),
        ("grpc.http2.ping_timeout_ms", keepalive.timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        # Window probing lets a slow reader's window grow to megabytes: backpressure would come minutes late.
        ("grpc.http2.bdp_probe", 0),
    ]
