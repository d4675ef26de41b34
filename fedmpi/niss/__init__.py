"""NISS: federated learning with differential-privacy noise that cancels [Yang et al. 2021].

Clients share the noise of their updates with each other, so that most of it is gone from the average, and none of it
from what a single client sends. Algorithm 2 is in `protocol` for the server, in `client` for the ranks on which clients
live, and in `tracker` for the rank that tells clients with whom they share. How much noise it takes is in `mechanism`,
how its shares are made in `noise`, and what privacy has been spent in `accounting`.
"""

from fedmpi.federated.serving import FederatedSystem

SYSTEM = FederatedSystem(
    "niss",
    "Federated learning with noise that cancels. Rank 0 is the server, rank 1 the tracker, clients live on the others.",
    roles=("server", "tracker", "host"),
    training="fedmpi.niss.command:NissTraining",
    serve="fedmpi.niss.service:serve",
    parameters="fedmpi.niss.params:Params",
    host="fedmpi.niss.client:serve",
    apart=(("server and the tracker", (0, 1)),),
    check="fedmpi.niss.checks:check",
    packages=("torch", "safetensors", "opacus"),
    learns={
        "niss": "The server sees {server_sees|each client's update} under Gaussian noise. Of its variance the fraction "
        "τ² = {tau_squared} stays in the sum, and the rest cancels.",
        "dp-fedavg": "The server sees {server_sees|each client's update} under Gaussian noise, which stays in the "
        "model.",
        "distributed-dp": "The server sees {server_sees|the sum of each round's updates} under noise of which every "
        "client makes a part, and which stays in the model. One part alone hides nothing.",
        "fedavg": "There is no noise: the server sees {server_sees|each client's update}.",
    },
    plain="fedavg",
)
