"""Intensity, noise, the classical base and the task as an inverse problem: no learning, no files."""
