"""``mpirun -n 11 python -m fedmpi.copml``: every rank is an owner of rows, and rank 0 leads."""

from fedmpi.copml import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
