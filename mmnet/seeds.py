"""Every random number of a trial is derived from the study's seed and what it is drawn for."""

import numpy as np


def derive_seed(*parts: int) -> int:
    """One 32-bit seed out of several numbers, well mixed."""
    return int(np.random.SeedSequence((len(parts), *parts)).generate_state(1)[0])  # the length, because trailing zeros do not count
