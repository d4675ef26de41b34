"""``mpirun -n 12 python -m fedmpi.ppadmm``: rank 0 is S1, rank 1 S2, all others are participants."""

from fedmpi.ppadmm import SYSTEM

if __name__ == "__main__":
    SYSTEM.main()
