"""The papers' experiments, run again: a folder for each paper, with the same files in each.

`settings` has the records, and how much `--quick` and `--full` run; `experiments` says what is run; `pages` draws what
came of it; and `paper` has the numbers that the paper prints, beside which ours are put. `shared` is what the folders
have in common, and `all` joins the papers' pages in one.
"""
