"""What the paper of CodedPrivateML [So et al. 2021, section V] says of its results; its Table II is not among them."""

SPEED_UPS = {("cifar10", "bh08"): 4.4, ("cifar10", "bgw"): 22.5, ("gisette-stand-in", "bh08"): 5.2}
"""(data set, baseline) → how many times as fast CodedPrivateML is: up to, in some case (Figure 3)."""

ACCURACIES = {"cifar10": (0.8135, 0.8175), "gisette-stand-in": (0.975, 0.975)}
"""Data set → test accuracy of CodedPrivateML, and that of conventional training (Figure 4); of the real GISETTE."""

TABLE_2 = "The cells of the paper's Table II are empty in our transcript; its text gives the speed-ups below."
"""Why there is nothing beside our Table II."""
