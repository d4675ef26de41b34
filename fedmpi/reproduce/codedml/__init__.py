"""What the paper of CodedPrivateML [So et al. 2021] shows, run again: Figures 3, 4 and 5 and Table II.

`experiments` says what is run, with the data sets and at the scales of `settings`. `pages` draws the results, beside
what the paper says of its own, which stands in `paper`.
"""

from fedmpi.reproduce.codedml.experiments import figure3_from, figure3_runs, reproduce, runs
from fedmpi.reproduce.codedml.settings import FULL, QUICK

__all__ = ["FULL", "QUICK", "figure3_from", "figure3_runs", "reproduce", "runs"]
