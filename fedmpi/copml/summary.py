"""What a run says to people."""

from typing import Any

from fedmpi.copml.member import Start
from fedmpi.copml.params import Params
from fedmpi.copml.scale import Scale
from fedmpi.copml.service import largest_of
from fedmpi.training import Training


class OwnersWords(Training[Params, Start]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    @property
    def sizes(self) -> dict[str, int]:
        """N, T, and K and R of the code."""
        return self.params.sizes(self.ch.size)

    @property
    def threshold(self) -> int:
        """T."""
        return self.sizes.get("T", 1)

    def heading(self) -> list[str]:
        """What is about to run."""
        params, sizes = self.params, self.sizes
        if params.method == "plain":
            return ["plain training on rank 0: not private", self.rows_line()]
        private = f"private against any T={sizes['T']} of them"
        if params.method == "bgw":
            return [f"BGW products with N={sizes['N']} owners, {private}", self.rows_line()]
        return [
            f"COPML with N={sizes['N']} owners: K={sizes['K']} blocks, {private}, decoded from the fastest "
            f"R={sizes['R']}",
            self.rows_line(),
        ]

    def rows_line(self) -> str:
        """The data set, for people."""
        if self.options.schema is None:
            return super().rows_line()
        return f"rows lie apart, in the files of {self.ch.size} owners: {len(self.data.classes)} classes"

    def plan(self) -> list[str]:
        """The roles and the bytes of arrays that a run would exchange, for --dry-run."""
        params, sizes, data = self.params, self.sizes, self.data
        if params.method == "plain":
            return []
        means = "the means of all rows, " if params.center and data.shape else ""
        every = self.options.checkpoint_every
        models = f"the models after every {every} iterations and the last" if every else "the last model"
        lines = [
            f"ranks 0 to {sizes['N'] - 1}: owners, see their rows, uniform shares, masked numbers "
            f"(κ = {params.kappa}), {means}and {models}; rank 0 leads",
        ]
        rows, columns = len(data.y_train), data.X_train.shape[1] + 1
        if not rows:
            return lines  # nobody knows how many there are
        C, q, others = (1 if len(data.classes) <= 2 else len(data.classes)), 3, sizes["N"] - 1
        scale = Scale.choose(params, sizes["T"], rows, largest_of(data))
        vector = 4 * q * columns * C
        lines.append(f"{scale.text()}, κ ≥ {params.kappa}")
        own = 4 * q * columns * -(-rows // sizes["N"])
        if params.method == "bgw":
            lines.append(f"once: {own:,} bytes of shares of an owner's rows to each of {others} others")
            z = 4 * q * rows * C
            each = f"each of {params.iterations} iterations: {z + vector:,} bytes to each other, and {vector:,} more to"
            return [*lines, f"{each} {sizes['T']} of them"]
        if params.encoding == "own":
            lines.append(f"once: {own // sizes['K']:,} bytes of an owner's coded rows to each of {others} others")
        else:
            dealt = sizes["T"] * (own // sizes["K"]) * sizes["N"] // (sizes["N"] - sizes["T"])
            coded = own // sizes["K"] * sizes["N"]
            lines.append(
                f"once: {own + dealt:,} bytes of shares of an owner's rows and masks to each of {others} others, and "
                f"{coded:,} of coded shares to each of {sizes['T']} others"
            )
        holders = sizes["T"] + 1 + sizes["N"] - sizes["R"]
        lines.append(
            f"each of {params.iterations} iterations: {vector:,} bytes to each of ranks 0 to {holders - 1}, who hold "
            f"shares of the weights; {vector:,} from these to each other owner, and {vector:,} to one another"
        )
        return lines

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """The end of a run, for people."""
        metrics, seconds = summary["metrics"], summary["seconds"]
        lines = [f"owner (rank {f['rank']}) {f['reason']}" for f in summary["failures"]]
        score = f"test accuracy {metrics['test_accuracy']:.4f}   " if "test_accuracy" in metrics else ""
        return [*lines, f"{summary['method']:<6} {score}{metrics['iterations']} iterations, {seconds['total']:.2f} s"]
