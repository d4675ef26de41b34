"""What the paper of NISS [Yang et al. 2021] says of its results."""

GAINS = {
    ("mnist", "iid"): "12 to 13",
    ("mnist", "shards"): "30 to 40",
    ("cifar10", "iid"): "15 to 25",
    ("cifar10", "shards"): "10 to 20",
}
"""(data set, partition) → points of accuracy that its text says NISS gains (Figure 3)."""
