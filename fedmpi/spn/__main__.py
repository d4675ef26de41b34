"""``mpirun -n 11 python -m fedmpi.spn --clients 10``: rank 0 is the server, on all others live clients."""

from fedmpi.spn import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
