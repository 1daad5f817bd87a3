"""Many streams that are given up at random moments and in every way a client can give one up.

Run as a module, `tests.support.storm ADDRESS COUNT AT_ONCE SEED`, in a process of its own: grpc.aio keeps a connection
now and then until the garbage collector comes by, and so does the server that is asked whether it keeps any.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING

import grpc

from common.channel import open_channel
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.cluster import ROOT, environment

if TYPE_CHECKING:
    from tandem.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

MANNERS = ("cancel after a while", "cancel after some tokens", "cancel at the end", "deadline", "close the channel")
LONGEST_WAIT_S = 0.3
STREAM_TIMEOUT_S = 120.0


def storm(address: str, count: int, at_once: int, seed: int) -> Counter[str]:
    """Run `count` streams, `at_once` at a time; return how many had got how far when they were given up.

    That is "nothing" (queued, or in prefill), "started" or "finished".
    """
    command = [sys.executable, "-m", "tests.support.storm", address, str(count), str(at_once), str(seed)]
    child = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return Counter(json.loads(child.stdout))


async def _storm(address: str, count: int, at_once: int, seed: int) -> Counter[str]:
    how_far = Counter[str]()
    free = asyncio.Semaphore(at_once)
    async with open_channel(address) as shared:
        stub: InferenceServiceAsyncStub = InferenceServiceStub(shared)

        async def one(index: int) -> None:
            draw = random.Random(f"{seed} {index}")
            manner = MANNERS[index % len(MANNERS)]
            async with free:
                if manner == "close the channel":
                    async with open_channel(address) as own:
                        how_far[await _give_up(InferenceServiceStub(own), manner, draw)] += 1
                else:
                    how_far[await _give_up(stub, manner, draw)] += 1

        await asyncio.gather(*(one(index) for index in range(count)))
    return how_far


async def _give_up(stub: "InferenceServiceAsyncStub", manner: str, draw: random.Random) -> str:
    request = _random_request(draw)
    seen: list[str | None] = []
    limits = {"cancel after some tokens": draw.randrange(1, 20), "cancel at the end": request.stopping.max_tokens}
    while_s = draw.uniform(0.001, LONGEST_WAIT_S)
    deadline_s = while_s if manner == "deadline" else STREAM_TIMEOUT_S
    call = stub.Generate(request, timeout=deadline_s)

    async def read() -> None:
        async for event in call:
            seen.append(event.WhichOneof("event"))
            if seen.count("delta") >= limits.get(manner, inf):
                return

    reading = asyncio.create_task(read())
    await asyncio.wait([reading], timeout=while_s if manner in ("cancel after a while", "close the channel") else None)
    if manner == "close the channel":
        return _how_far(seen)  # the reader is still there when the caller closes the channel
    call.cancel()
    with suppress(asyncio.CancelledError):
        try:
            await reading
        except grpc.aio.AioRpcError as error:
            # A reader that the cancel overtakes sees it as a status of our own making, not as a CancelledError.
            overtaken = error.code() is grpc.StatusCode.CANCELLED and "Locally cancelled" in (error.details() or "")
            assert overtaken or (manner, error.code()) == ("deadline", grpc.StatusCode.DEADLINE_EXCEEDED), error
    return _how_far(seen)


def _how_far(seen: list[str | None]) -> str:
    return "finished" if "finished" in seen else "started" if seen else "nothing"


def _random_request(draw: random.Random) -> pb.GenerateRequest:
    """Return a request of random length, with every feature that keeps state somewhere."""
    sampling = SamplingParams(temperature=draw.choice([0.0, 0.9]), top_k=draw.choice([0, 5]), seed=draw.getrandbits(64))
    if draw.random() < 0.3:
        sampling.frequency_penalty = 0.5
    return pb.GenerateRequest(
        text="shared prefix of all streams " * 2 + "x" * draw.randrange(1, 400),
        sampling=sampling,
        stopping=pb.StoppingParams(
            max_tokens=round(200 ** draw.random()), ignore_eos=True, stop_strings=["never seen"]
        ),
        logprobs=draw.choice([None, 3]),
    )


if __name__ == "__main__":
    address, *numbers = sys.argv[1:]
    count, at_once, seed = map(int, numbers)
    print(json.dumps(asyncio.run(_storm(address, count, at_once, seed))))
