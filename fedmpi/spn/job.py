"""What the server of SPN tells the hosts of clients."""

from fedmpi.learn.job import Job as FederatedJob
from fedmpi.spn.params import Params


class Job(FederatedJob[Params]):
    """Parameters of SPN, and the data set."""

    system = "SPN"
    parameters = Params
