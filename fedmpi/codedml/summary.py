"""What a run says to people."""

from typing import Any

from fedmpi.codedml.dealing import SEED_BYTES, bits_of
from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import Norms, choose
from fedmpi.codedml.problem import fitted
from fedmpi.codedml.solvers import State
from fedmpi.core.packing import packed_words
from fedmpi.training import Training


class CodedWords(Training[Params, State]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    numbers: dict[str, int]
    """Of `layout`."""

    def heading(self) -> list[str]:
        """What is about to run."""
        params, numbers, data = self.params, self.numbers, self.data
        what = f"{self.rows_line()}, {' '.join(['classes', *data.classes]) if data.classes else 'regression'}"
        if params.method == "plain":
            return ["plain training on the master: not private", what]
        private = f"private against any T={numbers['T']} of them"
        if params.insecure_repeatable_masks:
            private = f"not private: masks for T={numbers['T']} of them are made from --seed"
        if params.method == "coded":
            return [
                f"CodedPrivateML with N={numbers['N']} workers: K={numbers['K']} blocks, {private}, "
                f"decoded from the fastest R={numbers['R']}",
                what,
            ]
        return [f"{params.method.upper()} with N={numbers['N']} workers in G={numbers['G']} groups, {private}", what]

    def plan(self) -> list[str]:
        """The roles and the bytes of arrays that a run would exchange with the master, for --dry-run."""
        params, numbers, data = self.params, self.numbers, self.data
        precision = choose(params, Norms.of(fitted(params, data.X_train), data.X_train))
        if params.method == "plain":
            return []
        outputs = 1 if len(data.classes) <= 2 else len(data.classes)
        columns = data.X_train.shape[1] + params.has_ones
        rows = -(-len(data.X_train) // numbers.get("K", numbers.get("G", 1)))
        element, seeds = 4 * len(precision.primes), numbers["T"] * numbers.get("G", 1)
        data_bytes = 4 * sum(packed_words(rows * columns, bits_of(field)) for field in precision.residues.fields)
        if params.degree is None:
            down = up = element * (columns + rows) * outputs
        else:
            down, up = element * columns * params.degree * outputs, element * columns * outputs
        at_most = "" if params.tolerance == 0 else "at most "
        sees = "the data, if they know --seed" if params.insecure_repeatable_masks else "uniform field elements"
        lines = [
            f"rank 0: master, sees everything; ranks 1 to {numbers['N']}: workers, see {sees}",
            precision.text(),
            f"once: {SEED_BYTES} bytes, a seed, to each of {seeds} workers, and {data_bytes:,} bytes of data to each "
            f"of the other {numbers['N'] - seeds}",
            f"each of {at_most}{params.iterations} iterations: {down:,} bytes to and {up:,} bytes from each worker",
        ]
        if params.method == "coded" and params.degree is not None:
            power, blocks = params.power, numbers["K"] + numbers["T"] - 1
            lines.append(
                f"a polynomial of degree {params.degree} takes R = {power}·(K+T-1)+1 = {power * blocks + 1} answers; "
                f"the sigmoid itself, without -r, takes 2·(K+T-1)+1 = {2 * blocks + 1}"
            )
        return lines

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """The end of a run, for people."""
        metrics, seconds = summary["metrics"], summary["seconds"]
        rows = "test" if len(self.data.y_test) else "train"
        linear = summary["params"]["model"] == "linear"
        score = f"{rows}_r2" if linear else f"{rows}_accuracy"
        name = f"{rows} R²" if linear else f"{rows} accuracy"
        lines = []
        for failure in summary["failures"]:
            when = "" if failure["iteration"] is None else f"iteration {failure['iteration']}: "
            lines.append(f"{when}worker (rank {failure['rank']}) {failure['reason']}")
        lines += [f"{summary['method']:<6} {name} {metrics[score]:.4f}   {seconds['total']:.2f} s"]
        if "plain" in metrics:
            lines.append(f"plain  {name} {metrics['plain'][score]:.4f}   {seconds['plain']:.2f} s (not private)")
        if "headroom_bits" in metrics:
            sent = summary["bytes"]["sent"]["master"] / 1e6
            done = metrics["iterations"]
            ended = " (converged)" if metrics["converged"] else ""
            headroom = f"headroom {metrics['headroom_bits']:.1f} bits"
            lines.append(f"{done} iterations{ended}, {headroom}, {sent:.1f} MB sent by the master")
        return lines
