"""Privacy-preserving machine learning over MPI."""

__version__ = "0.1.0"
