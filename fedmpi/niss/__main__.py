"""``mpirun -n 8 python -m fedmpi.niss``: rank 0 is the server, rank 1 the tracker, on all others live clients."""

from fedmpi.niss import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
