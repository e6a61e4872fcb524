"""Timings beside a peer, in one run: ``python -m benchmarks [masks]``."""
