"""How the workers are used."""

from fedmpi.codedml.params import Params


def layout(params: Params, workers: int) -> dict[str, int]:
    """N, T, and K and R of the code, or G groups.

    Raises
    ------
    UsageError
        If there are too few workers.
    """
    if params.method == "plain":
        return {}
    if params.method == "coded":
        code = params.code(workers)
        return {"N": workers, "T": code.privacy, "K": code.parallelization, "R": code.recovery_threshold}
    T, groups = params.groups(workers)
    return {"N": workers, "T": T, "G": len(groups)}
