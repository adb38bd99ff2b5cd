"""A build as one HTML file: what was solved, what each byte is, where the energy goes, how training went."""

from poet_codegen.report.inputs import FirmwareSizes, LossPoint, RunSummary
from poet_codegen.report.page import render_report, write_report

__all__ = ["FirmwareSizes", "LossPoint", "RunSummary", "render_report", "write_report"]
