"""What the paper of NISS [Yang et al. 2021] shows, run again: Figures 3 and 4.

`experiments` says what is run for Figure 3, at the scales of `settings`, `stated` what is run with the numbers that the
paper states, and `uploads` what is run and attacked for Figure 4. `pages` draws the results, beside what the paper says
of its own, which stands in `paper`.
"""

from fedmpi.reproduce.niss.experiments import reproduce, runs
from fedmpi.reproduce.niss.settings import FULL, QUICK

__all__ = ["FULL", "QUICK", "reproduce", "runs"]
