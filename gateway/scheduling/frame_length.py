"""How many tokens shall one frame draw? Each further one saves a hop, and is lost behind a token that was not fed."""

LEAST_HOP_SHARE = 0.05  # of a step: below, bursts of tokens gain too little


def frame_length(most: int, hop_s: float, step_s: float, confirmation: float) -> int:
    """Return the number of tokens, 1 to `most`, with which a stream is fastest.

    A frame of n passes takes hop_s + n * step_s. Its first token is drawn for sure, each further one if all before it
    were the winners that the ranks fed, which each is with the chance `confirmation`.
    """
    if hop_s < LEAST_HOP_SHARE * step_s:
        return 1
    best, best_rate, tokens = 1, 0.0, 0.0
    for length in range(1, most + 1):
        tokens += confirmation ** (length - 1)
        rate = tokens / (hop_s + length * step_s)
        if rate > best_rate:
            best, best_rate = length, rate
    return best
