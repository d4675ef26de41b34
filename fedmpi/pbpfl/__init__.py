"""PBPFL [Feng et al. 2020]: clients train a model that they never see, on weights that the server has perturbed."""
