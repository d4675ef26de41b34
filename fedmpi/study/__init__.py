"""Systems side by side: a grid of runs on the same rows, one table and one picture.

`plan` turns what is asked for into runs, `running` makes those that are not there yet, `table` reads their results,
and `picture` and `page` show them.
"""

from fedmpi.study.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
