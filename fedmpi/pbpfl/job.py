"""What the server of PBPFL tells the hosts of clients."""

from fedmpi.learn.job import Job as FederatedJob
from fedmpi.pbpfl.params import Params


class Job(FederatedJob[Params]):
    """Parameters of PBPFL, and the data set."""

    system = "PBPFL"
    parameters = Params
