"""Measurements that anyone can repeat: quality, time and memory, independence of tiles, repeated scans.

Run each as a module from the root of the checkout, for example ``python -m benchmarks.quality``; ``make help`` lists
the sets that ``make`` runs.
"""
