"""A report of runs as one HTML page: data from the run folders -> figures -> page."""

from maris_fast.reports.model_pictures import Drawing
from maris_fast.reports.report_page import write_report

__all__ = ["Drawing", "write_report"]
