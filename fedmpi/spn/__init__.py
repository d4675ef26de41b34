"""SPN: federated learning with a secret polarization network on every client [Fan et al. 2020].

A client trains the public model together with a head that it keeps to itself, and what that head adds to the gradient
hides the rows. The paper's algorithms are in `protocol`, the client's part in `client`, and the polarization network
with its loss in `polarization`. The methods it is compared with, noise and sparse updates, go the same way.
"""

from fedmpi.federated.serving import FederatedSystem

SYSTEM = FederatedSystem(
    "spn",
    "Federated learning with secret polarization networks. Rank 0 is the server, clients live on the others.",
    roles=("server", "host"),
    training="fedmpi.spn.command:SpnTraining",
    parameters="fedmpi.spn.params:Params",
    host="fedmpi.spn.protocol:serve",
    packages=("torch", "safetensors"),
)
