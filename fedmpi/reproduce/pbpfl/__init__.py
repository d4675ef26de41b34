"""What the paper of PBPFL [Feng et al. 2020] shows, run again: Tables 1, 2 and 3, and Figure 3.

`experiments` says what is run, on bank and on images, at the scales of `settings`. `pages` draws the results, beside
the numbers of the paper's own tables, which stand in `paper`.
"""

from fedmpi.reproduce.pbpfl.experiments import reproduce, runs
from fedmpi.reproduce.pbpfl.settings import FULL, QUICK

__all__ = ["FULL", "QUICK", "reproduce", "runs"]
