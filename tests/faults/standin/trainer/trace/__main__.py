"""A stand-in for the tracer: the same footprint for whatever is asked, at once."""

import json
import sys

request = json.load(sys.stdin)
PEAKS = dict.fromkeys(("allocated_bytes", "reserved_bytes", "process_bytes"), 32 << 20)  # and 64 MiB of context
candidates = [
    {"micro_batch": size, **modes, "parts": {"weights": 1 << 20}, **PEAKS}
    for modes in request["modes"]
    for size in request["micro_batches"]
]
print(json.dumps({"torch": "2", "seconds": 0.1, "parameters": 7, "candidates": candidates}))
