"""Rank 0's run: it leads the owners, is one of them, and leaves what comes of it."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml import plain, service
from fedmpi.copml.member import LEADER, Keep, Start, Trained
from fedmpi.copml.params import Params
from fedmpi.copml.quantized import of_raw_features
from fedmpi.copml.scale import Scale
from fedmpi.copml.summary import OwnersWords
from fedmpi.data import Dataset, Table
from fedmpi.data.loading import prepared, prepared_as, training_table
from fedmpi.data.schema import Schema
from fedmpi.errors import PeerFailed, TooFewWorkers, UsageError
from fedmpi.federated.statistics import survey
from fedmpi.machines.placement import Apart
from fedmpi.net.costs import gather_reports
from fedmpi.net.orders import dismiss
from fedmpi.runs.checkpointing import Keeper
from fedmpi.runs.own_options import OwnOptions
from fedmpi.runs.scores import class_scores


class OwnersTraining(OwnersWords):
    """COPML, the same by BGW products, or the same in the clear."""

    parameters, state_type = Params, Start
    step = "iteration"
    answers = ("GradientShare", "SubShare")
    may_change = frozenset({"iterations"})

    outcome: Trained
    own_part: Dataset
    """Where rows lie apart, this owner's; else the data set."""

    def data_arguments(self) -> dict[str, Any]:
        """What to load: tables with scaled columns, or what tables that lie apart have in common."""
        given = self.options.scaled_load_arguments() | {"group_column": self.params.split_by}
        return given | self.options.schema_argument()

    def load(self) -> None:
        """The data set, which must have classes; columns of a table are prepared by sums over all owners' rows.

        A dry run talks to nobody, and looks at the file that lies here.
        """
        options, job, self.steps = self.options, self.job, self.params.iterations
        if options.schema is not None:
            schema = Schema.read(options.schema)
            self.data = schema.without_rows()
            if not options.dry_run:
                self.own_part = service.raw_rows(job, self.own_options(), LEADER)
            if options.statistics is not None:
                self.data = prepared_as(self.data, options.statistics)
                if not options.dry_run:
                    self.own_part = prepared_as(self.own_part, options.statistics)
            elif options.dry_run:
                self.data = prepared(self.data, schema.unscaled())
        else:
            self.data = job.load() if options.statistics or options.dry_run else job.load_raw()
            self.own_part = self.data
        if not self.data.classes:
            raise UsageError(f"the data set must have classes, got {self.data.name}")
        if self.data.preparation is None and not options.dry_run and (not self.data.shape or options.impute):
            self.survey()
        self.job = replace(job, loaded=self.data)

    def survey(self) -> None:
        """Prepare the columns, by sums that the others mask and to which this owner adds its own."""
        mine = service.part(self.job, self.own_part, LEADER, self.ch.size)
        table = training_table(self.own_part)
        own = Table(table.X[mine], table.names, table.values)
        with self.ch.phase("distribute"):
            preparation = survey(self.ch, self.job.to_json(), self.data, impute=self.options.impute, own=own)
        same = self.own_part is self.data
        self.data = prepared(self.data, preparation)
        self.own_part = self.data if same else prepared(self.own_part, preparation)

    def own_options(self) -> OwnOptions:
        """Where this rank's rows are."""
        return OwnOptions(None, None, None, None, strict_placement=False, rows=self.options.own_rows)

    def remarks(self) -> Iterable[str]:
        """The bits, and what an opened number tells; where rows lie apart nobody knows yet how many there are."""
        if self.params.method != "plain" and len(self.data.y_train):
            scale = Scale.choose(self.params, self.threshold, len(self.data.y_train), service.largest_of(self.data))
            yield scale.text()

    def apart(self) -> Sequence[Apart]:
        """At most T owners may share a machine."""
        if self.params.method == "plain":
            return ()
        return (Apart("owners", range(self.ch.size), self.threshold),)

    def digested(self) -> Sequence[Any]:
        """The rows of the leader, or the data set that all read."""
        return self.own_part.X_train, self.own_part.y_train

    def unchanged(self) -> dict[str, Any]:
        """Also how many owners there are, on which the bits of the weights depend."""
        return super().unchanged() | {"owners": self.ch.size}

    def keeper(self) -> "OpenedKeeper":
        """Writes weights that were opened: no share is on any disk."""
        return OpenedKeeper(self.ch, self.progress.folder, self, 1)

    def train(self, start: Start | None, keeper: Keeper[Start]) -> None:
        """Train with the other owners, or in the clear; and hear their reports."""
        every = self.options.checkpoint_every

        def keep(done: int, w: NDArray[np.int64]) -> None:
            keeper.advance(Start(done, w))

        if self.params.method == "plain":
            self.outcome = self.in_the_clear(start, every, keep)
        else:
            mine = service.part(self.job, self.own_part, LEADER, self.ch.size)
            self.outcome = service.lead(
                self.ch, self.job, self.own_part, mine, self.watch, start=start, every=every, keep=keep
            )
        self.total_seconds = self.outcome.total_seconds
        self.failures += self.outcome.failures
        with self.ch.phase("evaluate"):
            self.final = self.evaluate()
        done = self.outcome.iterations
        self.progress.step(done, {k: v for k, v in self.final.items() if isinstance(v, float)}, *self.counted)
        self.progress.end()
        with self.ch.phase("close"):
            dismiss(self.ch)
            if self.params.method != "plain":
                self.reports = gather_reports(self.ch)

    @property
    def counted(self) -> tuple[Any, tuple[str, ...]]:
        """What a line of progress counts."""
        return self.ch.meter, self.answers

    def in_the_clear(self, start: Start | None, every: int, keep: Keep) -> Trained:
        """The twin, on all rows."""
        data, owners, begun = self.data, range(self.ch.size), time.perf_counter()
        parts = [service.part(self.job, data, p, len(owners)) for p in owners]
        order, rows = np.concatenate(parts), [len(part) for part in parts]
        task, X, Y = service.prepared_rows(self.params, data, order, rows)
        task = replace(task, start=start, every=every)
        means, scale = plain.means(task, X), task.scale()
        w, done, step_bits = plain.train(task, plain.prepared(task, X, means), Y, watch=self.watch, keep=keep)
        W = of_raw_features(np.ldexp(w.astype(np.float64), -scale.weight_bits), means)
        seconds = time.perf_counter() - begun
        return Trained(W, done, scale, step_bits, seconds, seconds)

    def watch(self, done: int) -> bool:
        """Show how far it is: how good the weights are, nobody knows yet. Says whether a callback asks for the end."""
        self.ch.on_pause()
        if done % self.options.evaluate_every == 0:
            self.progress.step(done, {}, *self.counted)
        return self.stopping

    def evaluate(self) -> dict[str, Any]:
        """Loss and accuracy of the last model on the test rows."""
        data, W = self.data, self.outcome.W
        if self.options.schema is not None:
            try:
                return service.judge(self.ch, self.own_part, W)
            except (PeerFailed, TooFewWorkers) as error:
                self.failures.append({"rank": getattr(error, "rank", 0), "reason": f"no test metrics: {error}"})
                return {}
        if not len(data.y_test):
            return {}
        z = service.outputs(data, data.X_test, W)
        loss, right = service.losses(z, data.y_test).mean(), service.decided(z) == data.y_test
        found = {"test_loss": float(loss), "test_accuracy": float(right.mean())}
        return found | class_scores(z, data.y_test)

    def metrics(self) -> dict[str, Any]:
        """How good the last model is, and after how many iterations."""
        return {**self.final, "iterations": self.outcome.iterations}

    def layout(self) -> dict[str, int]:
        """Ranks, and N, T, K and R."""
        return super().layout() | self.sizes

    def seconds(self) -> dict[str, float]:
        """Of the iterations, and of all but reading and preparing the data."""
        return {"iterations": self.outcome.seconds, "total": self.total_seconds}

    def derived(self) -> dict[str, Any]:
        """What follows from the parameters, the number of owners and that of their rows."""
        found: dict[str, Any] = dict(self.sizes)
        if hasattr(self, "outcome"):
            scale = self.outcome.scale
            found |= {"data_bits": scale.data_bits, "weight_bits": scale.weight_bits}
            found |= {"hiding_bits": scale.hiding_bits, "learning_rate": 2.0**-self.outcome.step_bits}
        return found

    def model(self) -> dict[str, NDArray[Any]]:
        """Weights in the units of the features, cut off where they were, and the names of the classes."""
        W, data = self.outcome.W, self.data
        divisor, largest = service.divisor_of(data), service.largest_of(data)
        limit = np.full(len(W) - 1, divisor * largest)
        return {
            "coefficients": W[:-1] / divisor,
            "intercepts": W[-1],
            "classes": np.array(data.classes, dtype=str),
            "lower": -limit,
            "upper": limit,
        }

    def card(self) -> dict[str, Any]:
        """A linear model."""
        link = "sigmoid" if len(self.data.classes) == 2 else "sigmoids"
        return self.data_card() | {"kind": "linear", "link": link}


class OpenedKeeper(Keeper[Start]):
    """Of a run that goes on from weights that were opened alone."""

    @property
    def nothing_saved(self) -> str:
        """Why there is nothing to go on from, for people."""
        return "no share is kept on any disk, and --checkpoint-every had opened no model yet: begin again"
