"""Run folders → tables, curves and pages."""

from fedmpi.report.files import write_report

__all__ = ["write_report"]
