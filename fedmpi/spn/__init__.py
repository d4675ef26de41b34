"""SPN: federated learning with a secret polarization network on every client [Fan et al. 2020]."""
