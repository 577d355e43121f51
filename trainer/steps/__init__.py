"""One optimizer step: its arithmetic, the optimizer, and what happens when memory runs out."""
