"""What a run says to people."""

from typing import Any

from fedmpi.ppadmm.admm import NORMS
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.protocol import State
from fedmpi.ppadmm.rounds import words_of
from fedmpi.ppadmm.secure_sum import participants
from fedmpi.training import Training


class LassoWords(Training[Params, State]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    def heading(self) -> list[str]:
        """What is about to run, for people."""
        params, N = self.params, len(participants(self.ch))
        how = {
            "ppadmm": f"PPADMM with N={N} participants: S1 sees sums of at least {params.fewest(N)} of them, S2 no "
            "update",
            "admm": f"ADMM with N={N} participants, in the clear: not private",
            "dssgd": f"DSSGD with N={N} participants, ε = {params.epsilon:g} each iteration",
        }
        return [how[params.method], self.rows_line()]

    def plan(self) -> list[str]:
        """The roles and the bytes of arrays that a run would exchange, for --dry-run."""
        params, d, N = self.params, self.data.X_train.shape[1], len(participants(self.ch))
        up = {"ppadmm": 8 * words_of(FIRST_ITERATION, d), "admm": 8 * (d + NORMS)}.get(params.method, 0)
        lines = [
            "rank 0: primary server S1, sees the sums and the model",
            "rank 1: auxiliary server S2, sees who takes part" if params.method == "ppadmm" else "rank 1: idle",
            f"ranks 2 to {N + 1}: participants, see their rows and the model",
        ]
        if params.method == "dssgd":
            total = params.epsilon * params.iterations
            return [
                *lines,
                f"each of {params.iterations} iterations costs ε = {params.epsilon:g}, all of them {total:g}",
            ]
        lines.append(
            f"each of at most {params.iterations} iterations: {8 * d:,} bytes to and {up:,} from each participant"
        )
        if params.method == "ppadmm":
            lines.append(f"and {up:,} bytes from S2 to S1")
        return lines

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """The end of a run, for people."""
        metrics, seconds = summary["metrics"], summary["seconds"]

        def line(name: str, values: dict[str, float], rest: str) -> str:
            error = f"test RMSE {values['test_rmse']:.4f}   " if "test_rmse" in values else ""
            distance = f"MPED {values['mped']:.4g}   " if "mped" in values else ""
            return f"{name:<11} {error}{distance}{rest}"

        unfinished = ", not converged" if metrics.get("converged") is False and self.should_converge else ""
        rest = f"{metrics['iterations']} iterations{unfinished}   {seconds['total']:.2f} s"
        lines = [line(summary["method"], metrics, rest)]
        if "centralized" in metrics:
            lines.append(
                line("centralized", metrics["centralized"], f"distance {metrics['distance_to_centralized']:.2e}")
            )
        lines += [f"rank {failure['rank']}: {failure['reason']}" for failure in summary["failures"]]
        return lines
