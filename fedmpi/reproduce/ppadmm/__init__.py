"""What the paper of PPADMM shows, run again: Figures 3, 4 and 5; and what a participant that leaves shows S1.

`experiments` says what is run, with the methods and at the scales of `settings`; `departure` is the attack of S1 on a
participant that left. `pages` draws the results, beside what the paper says of its own, which stands in `paper`.
"""

from fedmpi.reproduce.ppadmm.experiments import reproduce, runs
from fedmpi.reproduce.ppadmm.settings import FULL, QUICK

__all__ = ["FULL", "QUICK", "reproduce", "runs"]
