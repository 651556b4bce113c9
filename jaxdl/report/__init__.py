"""A run directory becomes tables, curves and one self-contained HTML page."""

from jaxdl.report.page import write_report

__all__ = ["write_report"]
