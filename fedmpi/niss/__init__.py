"""NISS: federated learning with differential-privacy noise that cancels [Yang et al. 2021]."""
