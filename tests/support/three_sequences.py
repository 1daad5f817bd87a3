"""Three sequences for tests of a rank: their prompts, their blocks, and how each is drawn."""

import random

from common.arrays import I32, to_wire
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.plans import greedy_open

PROMPTS = [random.Random(7).choices(range(256), k=size) for size in (5, 31, 16)]
BLOCKS = [[3, 9, 4], [20, 11, 2, 5], [7, 8, 1]]  # of 16 positions


def opened(index: int) -> pb.SequenceOpen:
    """The first sequence is greedy, the others are drawn, the last with penalties."""
    opening = greedy_open(index)
    if index > 0:
        opening.temperature, opening.seed = 0.9, index
    if index == 2:
        opening.frequency_penalty = opening.presence_penalty = 0.5
        opening.history = to_wire(PROMPTS[2], I32)
        opening.prompt_length = len(PROMPTS[2])
    return opening
