"""Data sets on disk and in memory, and the batches that are made of them."""
