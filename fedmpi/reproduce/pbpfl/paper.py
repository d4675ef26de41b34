"""The numbers of the paper of PBPFL [Feng et al. 2020, section 5 and appendix D]."""

MSE = {
    ("mlp-3", 1): (0.059, 0.060),
    ("mlp-3", 5): (0.079, 0.078),
    ("mlp-3", 10): (0.097, 0.097),
    ("mlp-5", 1): (0.059, 0.059),
    ("mlp-5", 5): (0.079, 0.077),
    ("mlp-5", 10): (0.100, 0.101),
    ("mlp-7", 1): (0.058, 0.059),
    ("mlp-7", 5): (0.086, 0.082),
    ("mlp-7", 10): (0.113, 0.114),
}
"""Table 1: (model, clients) → test MSE of FedAvg and of PBPFL."""

ACCURACY = {
    ("fedavg-ce", 1): 66.90,
    ("fedavg-ce", 5): 64.93,
    ("fedavg-ce", 10): 63.38,
    ("fedavg-mse", 1): 66.24,
    ("fedavg-mse", 5): 61.68,
    ("fedavg-mse", 10): 61.44,
    ("pbpfl", 1): 66.23,
    ("pbpfl", 5): 61.74,
    ("pbpfl", 10): 61.27,
}
"""Table 2: (method, clients) → accuracy in percent."""

CLIENT_RATIO = 2.50
"""Table 3: the client's time over that of FedAvg, 228.06 s over 91.08 s."""
