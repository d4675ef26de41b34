"""What the paper of PPADMM says of its results; the pages with its tables are missing from our transcript."""

SIGMA = 20
"""Standard deviation of the noise in the targets, to which PPADMM's and ADMM's error on the test rows comes close."""

DSSGD_EPSILON, DSSGD_RMSE = "0.1", 100
"""With this ε DSSGD's error is above this; it falls as ε grows (Figure 3)."""
