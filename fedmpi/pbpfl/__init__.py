"""PBPFL [Feng et al. 2020]: clients train a model that they never see, on weights that the server has perturbed.

The server scales every unit and shifts every output by secret numbers, and can still recover the gradient of the true
weights from what the clients send: `perturbation` has that mathematics, on the layers that `structure` finds in a
model. The server's rounds are in `protocol`, the clients' work in `host`, `client` and `gradients`. With masked uploads
(`federated.masked`) the server sees nothing but the sum.
"""

from fedmpi.federated.serving import FederatedSystem

SYSTEM = FederatedSystem(
    "pbpfl",
    "Federated learning on weights that clients get up to a secret scaling of units: the numbers are hidden, not what "
    "they compute. Rank 0 is the server, clients live on the others.",
    roles=("server", "host"),
    training="fedmpi.pbpfl.command:PbpflTraining",
    parameters="fedmpi.pbpfl.params:Params",
    check="fedmpi.pbpfl.checks:check",
    no_class_weight="recovers the gradient of the plain squared error, in which all rows count the same",
    host="fedmpi.pbpfl.host:serve",
    packages=("torch", "safetensors"),
    learns={
        "pbpfl": "Clients see the weights under secret scalings, which hide the numbers but not what the model "
        "computes. The server sees each client's gradient, and can read whole batches of rows from what comes with it.",
        "pbpfl-masked": "Clients see the weights under secret scalings, which hide the numbers but not what the model "
        "computes. The server sees sums over clients.",
        "fedavg-mse": "Nothing is hidden: the server sees each client's update.",
        "fedavg-ce": "Nothing is hidden: the server sees each client's update.",
    },
    plain="fedavg-mse",
)
