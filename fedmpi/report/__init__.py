"""Run folders → tables, curves and pages.

`page` and `charts` make one HTML page of one run or several, and `files` writes it with its curves and numbers. `watch`
shows a run that is still going on. Nothing here trains, or changes a run.
"""

from fedmpi.report.files import write_report

__all__ = ["write_report"]
