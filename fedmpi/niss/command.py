"""The server's run: what is trained, what it spends of the clients' privacy, and what it leaves."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.niss.accounting import ACCOUNTANTS, Ledger, finite
from fedmpi.niss.budgets import contents
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import Federation, Outcome, State, Watch, server, setup
from fedmpi.niss.summary import NissWords
from fedmpi.runs.checkpointing import Keeper
from fedmpi.runs.options import RunOptions
from fedmpi.system import System


class NissTraining(NissWords):
    """NISS, DP-FedAvg or FedAvg."""

    parameters, state_type = Params, State
    answers = ("Uploads", "Masked")
    may_change = frozenset({"rounds", "shares", "accountant", "max_epsilon", "device"})

    federation: Federation
    last: Outcome | None = None
    stopped: str | None = None
    """Why training ended before its last round."""

    def __init__(self, system: System, ch: Channel, params: Params, options: RunOptions):
        if params.budgets is not None:  # the run keeps what the file says, and need not find it again
            params = replace(params, budgets=contents(params.budgets))
        super().__init__(system, ch, params, options)
        if params.budgets is not None:
            replace(params, clients=self.clients)  # raises where the lines are not one for each
        self.members: list[NDArray[np.uint32]] = []
        """Of each round, as far as somebody has asked for them."""

    def set_up(self) -> None:
        """Tell tracker and hosts what is trained."""
        self.federation = setup(self.ch, self.params, self.job.to_json(), self.clients, self.digest, self.dealt)
        if self.params.method != "fedavg":
            importlib.import_module("opacus.accountants")  # takes seconds, and is no part of the first round

    def first(self) -> State:
        """The state before the first round."""
        return State(0, self.flat.read(), np.zeros(self.clients, np.int64))

    def parameters_of(self, state: State) -> NDArray[np.float64]:
        """Shape (h,)."""
        return state.w

    def rounds(self, start: State, keeper: Keeper[State]) -> State:
        """Train until the last round, or until --max-epsilon."""

        def after(state: State, outcome: Outcome) -> bool:
            self.last = outcome
            self.failures += [{"round": outcome.round, **lost} for lost in outcome.lost]
            return keeper.advance(state)

        if self.params.method != "fedavg":
            self.check_budget(start)
        watch = Watch(self.affordable, self.watch, after)
        return server(self.ch, self.params, self.federation, self.drawn, start, watch)

    @property
    def rows(self) -> NDArray[np.int64]:
        """d_k for the ledger; of clients that never came 1, which lets no ε seem smaller."""
        return np.maximum(self.federation.rows, 1)

    def check_budget(self, start: State) -> None:
        """Refuse what no accountant can compute, and a budget that allows no round, before there is anything to lose.

        Raises
        ------
        UsageError
        """
        rows, rounds = self.rows, [self.drawn(t) for t in range(start.round, self.params.rounds)]
        planned = self.ledger(start, *((self.noise_left(rows, chosen), chosen) for chosen in rounds))
        for accountant in self.accountants:
            planned.upload(accountant)
            planned.model(accountant)
        limit = self.params.max_epsilon
        if limit is not None and not start.round and (least := self.next_epsilon(start, rounds[0])) > limit:
            raise UsageError(
                f"--max-epsilon must allow one round, which spends ε = {least:.4g} by the {self.params.accountant} "
                f"accountant, got {limit:g}"
            )

    def ledger(self, state: State, *more: tuple[float, NDArray[Any]]) -> Ledger:
        """What has been released; and by further rounds, of some noise in the model and some clients."""
        while len(self.members) < state.round:
            self.members.append(self.drawn(len(self.members)))
        noise = [*state.noise, *(left for left, _ in more)]
        members = [*self.members[: state.round], *(chosen for _, chosen in more)]
        return Ledger.of_training(self.params, self.rows, noise, members, len(self.flat))

    def next_epsilon(self, state: State, chosen: NDArray[np.uint32]) -> float:
        """ε of the worst client after one more round: of its uploads, and of the models where noise is to stay."""
        left = self.noise_left(self.rows, chosen)
        ledger, accountant = self.ledger(state, (left, chosen)), self.params.accountant
        return max(ledger.upload(accountant), ledger.model(accountant) if left else 0.0)

    def affordable(self, state: State, chosen: NDArray[np.uint32]) -> bool:
        """Whether no client would spend more than --max-epsilon in the next round."""
        limit = self.params.max_epsilon
        if limit is None or self.params.method == "fedavg" or not len(chosen):
            return True
        epsilon = self.next_epsilon(state, chosen)
        if epsilon > limit:
            self.stopped = f"stopped after round {state.round}: another would spend ε = {epsilon:.3g} > {limit:g}"
            self.progress.say(self.stopped)
        return epsilon <= limit

    def spent(self, state: State) -> dict[str, float]:
        """ε in both views, where one is promised, and the noise of the last round."""
        if self.params.method == "fedavg":
            return {}
        ledger, accountant = self.ledger(state), self.params.accountant
        epsilons = {"epsilon_upload": ledger.upload(accountant), "epsilon_model": ledger.model(accountant)}
        if not self.part_kept:
            del epsilons["epsilon_model"]  # nor 0 before the first round, when there will be none after it
        told = {name: value for name, value in epsilons.items() if value < float("inf")}
        return told if self.last is None else told | {"noise_std": self.last.noise_std}

    def metrics(self) -> dict[str, Any]:
        """How good the final model is, and the noise and the shares of the last round."""
        found = super().metrics()
        if self.params.method != "fedavg":
            found |= {"noise_std": self.last.noise_std if self.last else None, "stopped": self.stopped}
        if self.params.method == "niss" and self.last:
            found["shares"] = {"least": self.last.least_shares, "largest": self.last.largest_shares}
        return found

    def warnings(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """Where the uploads have cost far more than --epsilon, which holds for one of them."""
        yield from super().warnings(metrics)
        yield from self.noise_warnings()
        if self.params.method != "fedavg" and self.params.delta * len(self.data.X_train) > 1:
            yield (
                f"--delta {self.params.delta:g} is more than one in {len(self.data.X_train)} training rows: it would "
                "allow that a row is published as it is"
            )
        if self.params.method == "fedavg":
            return
        ledger = self.ledger(self.state)
        spent, own = ledger.upload(self.accountants[-1]), self.params.of(ledger.worst)
        what = "the sum of a round: the sums of the" if self.params.method == "distributed-dp" else "one upload: the"
        if own.noise_std is None and spent > 2 * own.epsilon:
            yield (
                f"--epsilon {own.epsilon:g} holds for {what} {ledger.uploads} uploads of one client have "
                f"spent ε = {spent:.4g}; --max-epsilon stops before that"
            )

    def noise_warnings(self) -> Iterable[str]:
        """Where noise stays that was meant to cancel, or where few know all of it."""
        params, m = self.params, self.params.clients_per_round(self.clients)
        if params.method != "niss":
            return
        partners = params.partners(m)
        if partners == 0:
            yield self.alone()
        elif partners == 1:
            yield "a client shares its noise with one other, which knows all of it: raise --clients or --fraction"
        elif params.collusion and not params.paper_noise and self.part_kept >= 1:
            yield (
                f"all noise stays in the sum: so few shares may all be known where {params.collusion:g} of the other "
                f"clients collude; raise --share-count (at most {partners} here) or lower --collusion"
            )
        elif not self.part_kept and params.collusion == 0 and self.last is not None and self.last.noise_std > 0:
            yield (
                f"noise of clients that were lost did not cancel: in the last round {self.last.noise_std:.3g} per "
                "parameter were left"
            )

    def is_done(self, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
        """Also where --max-epsilon has stopped it, and is what it was."""
        spent = metrics.get("stopped") is not None and params.get("max_epsilon") == self.params.max_epsilon
        return spent or super().is_done(metrics, params)

    def derived(self) -> dict[str, Any]:
        """Parameters that follow from those given."""
        params = self.params
        return (
            super().derived()
            | {
                "clip": finite(params.clip),
                "clients_per_round": params.clients_per_round(self.clients),
                "server_sees": self.server_sees,
                "tau_squared": self.part_kept,
            }
            | self.together_told
        )

    def own(self) -> dict[str, Any]:
        """ε by both accountants, in both views; null where nothing is promised."""
        if self.params.method == "fedavg":
            return {}
        ledger = self.ledger(self.state)

        def told(epsilon: Callable[[str], float], accountant: str) -> float | None:
            if accountant not in self.accountants:
                return None
            try:
                return finite(epsilon(accountant))
            except UsageError:
                return None

        privacy: dict[str, Any] = {
            "delta": self.params.delta,
            "noise_multiplier": ledger.multiplier,
            "uploads": ledger.uploads,
            "upload": {name: told(ledger.upload, name) for name in ACCOUNTANTS},
            "model": {name: told(ledger.model, name) for name in ACCOUNTANTS},
        }
        if self.params.budgets is not None:
            privacy["clients"] = [self.budget(ledger, k) for k in range(self.clients)]
        return {"privacy": privacy}

    def budget(self, ledger: Ledger, client: int) -> dict[str, Any]:
        """What a client has asked for, and what it has spent; null where nothing is promised."""
        own, (upload, model) = self.params.of(client), ledger.of_client(client)
        return {
            "client": client,
            "epsilon": None if own.noise_std is not None else own.epsilon,
            "noise_std": own.noise_std,
            "tau_squared": own.tau_squared,
            "uploads": int(ledger.counts[client]),
            "upload": finite(upload),
            "model": finite(model),
        }
