"""The numbers of the paper of SPN [Fan et al. 2020]."""

ALPHAS = (0.0001, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5)
NOISES = (0.0001, 0.001, 0.01, 0.1, 0.5)
"""The α₂ of SPN, and the σ of what it is compared with."""

COSINES = (-0.003, 0.19)
"""Figure 4: least and largest similarity of the gradients of the two losses, over the layers."""

CAP = {
    "cifar10": {
        "DP": (0.57, 0.00, 0.42),
        "PPDL-0.05": (0.55, 0.00, 0.50),
        "PPDL-0.3": (0.57, 0.00, 0.54),
        "SPN": (0.69, 0.24, 0.60),
    },
    "mnist": {
        "DP": (3.38, 0.00, 0.91),
        "PPDL-0.05": (4.42, 0.37, 0.92),
        "PPDL-0.3": (4.04, 0.00, 0.95),
        "SPN": (4.30, 0.37, 0.90),
    },
    "cifar100": {
        "DP": (0.23, 0.03, 0.14),
        "PPDL-0.05": (0.18, 0.02, 0.16),
        "PPDL-0.3": (0.21, 0.00, 0.19),
        "SPN": (0.37, 0.17, 0.29),
    },
    "svhn": {
        "DP": (0.77, 0.00, 0.68),
        "PPDL-0.05": (0.79, 0.00, 0.70),
        "PPDL-0.3": (0.72, 0.00, 0.68),
        "SPN": (0.88, 0.60, 0.66),
    },
}
"""Tables 7 to 10, for batches of one: data set → mechanism → CAP of reconstruction, membership and tracing."""
