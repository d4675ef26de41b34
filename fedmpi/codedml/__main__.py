"""``mpirun -n 50 python -m fedmpi.codedml``: rank 0 is the master, all others are workers."""

from fedmpi.codedml import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
