"""A run directory becomes tables, curves and one self-contained HTML page."""

from jaxdl.report.page import write_report
from jaxdl.room import open_room

__all__ = ["write_report"]

open_room(__name__)
