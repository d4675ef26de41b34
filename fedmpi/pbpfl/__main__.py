"""``mpirun -n 6 python -m fedmpi.pbpfl``: rank 0 is the server, on all others live clients."""

from fedmpi.pbpfl import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
