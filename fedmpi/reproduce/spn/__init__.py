"""What the paper of SPN [Fan et al. 2020] shows, run again: Figures 4 to 7, 28 and 29, and Tables 1 and 7 to 11.

`experiments` says what is run, with the `mechanisms` that are compared and at the scales of `settings`; `gradients` is
Figure 4's, `ratios` those of Figures 26 to 28, and `members` asks for 1000 rows among all. `pages` draws the results,
beside the numbers of the paper's own tables, which stand in `paper`.
"""

from fedmpi.reproduce.spn.experiments import reproduce, runs
from fedmpi.reproduce.spn.settings import FULL, QUICK

__all__ = ["FULL", "QUICK", "reproduce", "runs"]
