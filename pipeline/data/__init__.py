"""Photos -> one decoded memory map -> crops, LR crops and queries, as a pure function of (seed, step)."""
