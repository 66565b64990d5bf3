"""Metrics, reference-free quality, peers, statistics and the report."""
