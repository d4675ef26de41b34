"""Every field of every message between the ranks of a training: which row of the table attacks it, or why none does.

A test lists the fields from the messages' classes, and fails where one is in neither table.
"""

COUNTERS = frozenset(
    (
        *("round", "step", "stage", "iteration", "turn", "training", "epoch", "count", "transposed", "last"),
        *("clients", "senders", "receivers", "hosts", "ranks", "members", "owners", "coordinates", "counted", "asked"),
        "keep",
        *("timeout_seconds", "digest", "job"),
    )
)
"""Numbers of the protocol, and names of those who take part: public, and the same whatever the rows are. `job` is the
command line, and `digest` that of a data set that all ranks have."""

ATTACKED = {
    "niss.Uploads.values": "first layer in closed form",
    "niss.Round.w": "membership by LiRA",
    "niss.Shares.sealed": "sealed shares of masks or of noise",
    "niss.Neighbours.variances": "server, and a tracker that lies",
    "niss.Neighbours.senders": "one upload, and the shares of its noise that they know",
    "niss.Neighbours.receivers": "one upload, and the shares of its noise that they know",
    "federated.Envelopes.sealed": "sealed shares of masks or of noise",
    "federated.Post.sealed": "sealed shares of masks or of noise",
    "federated.Masked.words": "one client's hidden words of 3 rounds",
    "federated.Revealed.words": "they tell of one upload what is told of sums",
    "federated.Moments.words": "a host's sums of columns",
    "federated.Prepared.text": "subtraction of all other parts",
    "pbpfl.Round.w": "directions of rows",
    "pbpfl.Round.r_a": "γ by regression over a batch",
    "pbpfl.Final.w": "true predictions: the outputs, as they are",
    "pbpfl.Terms.values": "first layer in closed form",
    "spn.Round.G": "membership by LiRA",
    "spn.Changes.values": "deep leakage that knows of a secret head",
    "ppadmm.MaskedUpdate.words": "masked updates of each participant",
    "ppadmm.MaskSum.words": "sums of masks, from S2",
    "ppadmm.Order.values": "difference of two sums, --on-dropout continue",
    "ppadmm.Order.rho": "another ρ for all but one",
    "ppadmm.Present.order": "any field that could depend on data",
    "ppadmm.SharedGradient.values": "one shared gradient",
    "copml.RowShare.values": "shares of an owner's rows",
    "copml.CodedShare.values": "uniformity of all shares they see",
    "copml.CodedRows.values": "uniformity of all shares they see",
    "copml.SumShare.values": "uniformity of all shares they see",
    "copml.RandomShare.values": "uniformity of all shares they see",
    "copml.MaskShare.values": "the numbers that are opened, and shares of their masks",
    "copml.WeightShare.values": "uniformity of all shares they see",
    "copml.GradientShare.values": "uniformity of all shares they see",
    "copml.MaskedShare.values": "change of a gradient, by the difference of two of them",
    "copml.OpenedShare.values": "what is opened before training",
    "mpc.SubShare.values": "uniformity of all they see",
    "mpc.DoubleShare.low": "uniformity of all they see",
    "mpc.DoubleShare.high": "uniformity of all they see",
    "mpc.Masked.values": "uniformity of all they see",
    "mpc.Opened.values": "uniformity of all they see",
    "codedml.CodedData.X_tilde": "recombination without the masks",
    "codedml.DataSeed.seed": "recombination without the masks",
    "codedml.CodedVectors.V_tilde": "uniformity of all they see",
    "codedml.CodedWeights.W_tilde": "uniformity of all they see",
    "codedml.SharedWeights.W": "uniformity of all they see",
    "codedml.Setup.primes": "what is not coded, and how many messages there are",
    "codedml.Setup.coefficients": "what is not coded, and how many messages there are",
    "codedml.GroupSetup.primes": "what is not coded, and how many messages there are",
    "codedml.GroupSetup.coefficients": "what is not coded, and how many messages there are",
}
"""Field → part of a row of the table in docs/audit.md."""

_KEY = "a fresh public key"
_SIZE = "a number of rows or columns, which all ranks learn (SECURITY.md, not protected)"
_OWNER = "to the master, who owns the data"
_PARAMETER = "a parameter of the run, or a number that follows from parameters and sizes"
_MODEL = "the model that comes out: it is for the receiver, and differences of orders are attacked in its place"

NOT_ATTACKED = {
    "federated.Keys.keys": _KEY,
    "federated.MaskKey.public": _KEY,
    "federated.MaskKeys.keys": _KEY,
    "federated.Ready.rows": _SIZE,
    "federated.Judge.w": "the final model, whose leaks are those of Round",
    "federated.Survey.columns": "names of columns and values of text, which all ranks must know (SECURITY.md)",
    "niss.TrackerSetup": _PARAMETER,
    "niss.Round.weights": _SIZE,
    "niss.Alive.variances": "σ_k², which follows from parameters and the number of rows",
    "niss.Alive.keys": _KEY,
    "niss.Neighbours.keys": _KEY,
    "niss.Ledger": "how many shares there were, and the variance of noise that is left: no rows are in it",
    "pbpfl.Outputs.layer": "the name of a layer",
    "pbpfl.Round.rows": _SIZE,
    "pbpfl.Terms.shifts": "one number of a client's batch, which SECURITY.md says is told",
    "pbpfl.Evaluation": "how good the final model is on a client's rows, which SECURITY.md says is told in the clear",
    "ppadmm.AuxiliaryKey.public": _KEY,
    "ppadmm.ParticipantKey.public": _KEY,
    "ppadmm.Joined.columns": _SIZE,
    "ppadmm.ClearUpdate.values": "of --method admm, which is not private",
    "ppadmm.Model": _MODEL,
    "ppadmm.Weights.w": _MODEL,
    "ppadmm.Order.nonce": "fresh random bytes",
    "ppadmm.Refused.reason": "an error, in words of the program",
    "ppadmm.Unkept.reason": "an error, in words of the program",
    "copml.Setup.every": _PARAMETER,
    "copml.Setup.begun": "how far an earlier run came",
    "copml.Setup.w": "a model that all owners have learned, and may go on from",
    "copml.Ready.rows": _SIZE,
    "copml.Everybody.rows": _SIZE,
    "copml.MeanShare.values": "with --center alone: shares as those of SumShare (tests/privacy)",
    "copml.OpenedMeans.values": "with --center alone: the means of all rows, which SECURITY.md says are told",
    "copml.SyndromeShare.values": "opens to 0 of honest answers, whatever the rows are (tests/faults)",
    "mpc.Share.values": "of numbers that are opened to the receiver",
    "mpc.OpenedDigests.digests": "SHA-256 of numbers that the receiver has",
    "codedml.Setup": _PARAMETER,
    "codedml.GroupSetup": _PARAMETER,
    "codedml.CodedData.rows": _SIZE,
    "codedml.CodedGradient.gradient": _OWNER,
    "codedml.CodedProduct.product": _OWNER,
    "codedml.SharedGradient.gradient": _OWNER,
    "net": "timing, traffic and errors (SECURITY.md, not protected)",
    "machines": "names of machines and their free memory",
}
"""Field, message or room → why no row attacks it."""


def answered(room: str, message: str, field: str) -> str:
    """What is said of a field; empty if nothing is."""
    name = f"{room}.{message}.{field}"
    if name in ATTACKED:
        return ATTACKED[name]
    if field in COUNTERS:
        return "public"
    return next((NOT_ATTACKED[key] for key in (name, f"{room}.{message}", room) if key in NOT_ATTACKED), "")
