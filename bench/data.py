"""Generated tables for measuring: long texts, labels, scores, nested messages and embeddings."""

import random

import pyarrow as pa

__all__ = ["KINDS", "mixed"]

_WORDS = [
    "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=2 + seed % 9)) for seed in range(4000)
]  # fmt: skip
KINDS = {
    "text": ("prompt", "response", "rubric"),
    "numbers": ("id", "score", "tokens", "latency", "created"),
    "embeddings": ("embedding",),
}


def _texts(chooser: random.Random, rows: int, words: int) -> pa.Array:
    # Whole paragraphs are drawn from a pool that is larger than a page, so that they compress as prose does.
    pool = [" ".join(chooser.choices(_WORDS, k=words)) for _ in range(min(rows, 4000))]
    return pa.array([f"{pool[chooser.randrange(len(pool))]} {number}" for number in range(rows)])


def mixed(rows: int, seed: int = 1) -> pa.Table:
    """Twelve columns; about 2.4 KB of Arrow memory a row."""
    chooser = random.Random(seed)
    numbers = range(rows)
    floats = pa.array([chooser.random() for _ in range(rows)])
    vectors = pa.array(chooser.choices([chooser.gauss(0, 1) for _ in range(100_000)], k=rows * 128), pa.float32())
    roles = [{"role": "user", "content": _WORDS[n % 4000]} for n in range(2000)]
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "prompt": _texts(chooser, rows, 80),
            "response": _texts(chooser, rows, 120),
            "rubric": _texts(chooser, rows, 40),
            "label": [("good", "bad", "unsure")[chooser.randrange(3)] for _ in numbers],
            "annotator": [f"annotator-{chooser.randrange(40)}" for _ in numbers],
            "score": floats,
            "tokens": pa.array([chooser.randrange(4096) for _ in numbers], pa.int32()),
            "latency": pa.array([chooser.lognormvariate(0, 1) for _ in numbers]),
            "created": pa.array([1_700_000_000_000_000 + n * 1000 for n in numbers], pa.timestamp("us", "UTC")),
            "messages": [[roles[n % 2000], roles[(n * 7) % 2000]] for n in numbers],
            "embedding": pa.FixedSizeListArray.from_arrays(vectors, 128),
        }
    )
