"""The report: one HTML file that shows what an evaluation found, with nothing fetched and nothing to install.

Evaluation -> study each case -> pictures, tables, plots, texts -> report.html.j2 -> one file
"""

from medidiff.evaluation.report.page import complete, render, write

__all__ = ["complete", "render", "write"]
