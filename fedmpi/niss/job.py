"""What the server of NISS tells the hosts of clients."""

from fedmpi.learn.job import Job as FederatedJob
from fedmpi.niss.params import Params


class Job(FederatedJob[Params]):
    """Parameters of NISS, and the data set."""

    system = "NISS"
    parameters = Params
