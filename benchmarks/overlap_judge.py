"""A judge for `demotune evaluate --judge overlap_judge:token_f1`: the words an answer shares with the demonstration.

It knows nothing of quality. It is here because it learned nothing: no reward, no model, no training data.
"""

import re
from collections import Counter


def token_f1(response: str, demonstration: str) -> float:
    """F1 of the two texts' words as multisets, from 0 to 1; case and punctuation do not count (as in SQuAD)."""
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (response, demonstration))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0
