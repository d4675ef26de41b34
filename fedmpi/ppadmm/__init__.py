"""PPADMM: private linear regression with two servers that do not collude."""
