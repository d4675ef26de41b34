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
    learns={
        "spn": "The server sees updates that a secret head has changed. An attacker who knows the method recovers rows "
        "all the same.",
        "fedavg": "Nothing is hidden: the server sees each client's update.",
        "dp": "The server sees updates with noise on every gradient, for which no ε is accounted.",
        "ppdl": "The server sees the largest {share_fraction} of each client's changes.",
        "standalone": "Nothing is shared: each client trains by itself.",
    },
    plain="fedavg",
)
