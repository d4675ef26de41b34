"""The server's run: what is trained, what it spends of the clients' privacy, and what it leaves."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.learn import sample
from fedmpi.niss.accounting import Ledger, finite
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import Federation, Outcome, State, Watch, server, setup
from fedmpi.niss.summary import NissWords
from fedmpi.runs.checkpointing import Keeper


class NissTraining(NissWords):
    """NISS, DP-FedAvg or FedAvg."""

    parameters, state_type = Params, State
    answers = ("Uploads",)
    may_change = frozenset({"rounds", "shares", "accountant", "max_epsilon", "device"})

    federation: Federation
    last: Outcome | None = None
    stopped: str | None = None
    """Why training ended before its last round."""

    def set_up(self) -> None:
        """Tell tracker and hosts what is trained."""
        self.federation = setup(self.ch, self.params, self.job.to_json(), self.clients, self.digest)
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
        m = self.params.clients_per_round(self.clients)

        def drawn(t: int) -> NDArray[np.uint32]:
            return sample(self.job.seed, t, self.clients, m)

        def after(state: State, outcome: Outcome) -> None:
            self.last = outcome
            self.failures += [{"round": outcome.round, **lost} for lost in outcome.lost]
            keeper.advance(state)

        watch = Watch(self.affordable, self.watch, after)
        return server(self.ch, self.params, self.federation, drawn, start, watch)

    def ledger(self, state: State) -> Ledger:
        """What has been released."""
        return Ledger.of_training(self.params, self.federation.rows, state.uploads, state.noise)

    def affordable(self, state: State, chosen: NDArray[np.uint32]) -> bool:
        """Whether no client would spend more than --max-epsilon by an upload in the next round."""
        limit = self.params.max_epsilon
        if limit is None or self.params.method == "fedavg":
            return True
        after = State(state.round, state.w, state.uploads.copy(), state.noise)
        after.uploads[chosen] += 1
        epsilon = self.ledger(after).upload(self.params.accountant)
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
        if self.params.method == "fedavg" or self.params.noise_std is not None:
            return
        ledger = self.ledger(self.state)
        spent = ledger.upload("rdp")
        if spent > 2 * self.params.epsilon:
            yield (
                f"--epsilon {self.params.epsilon:g} holds for one upload: the {ledger.uploads} uploads of one client "
                f"have spent ε = {spent:.4g}; --max-epsilon stops before that"
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
        elif params.tau2 == 0 and self.last is not None and self.last.noise_std > 0:
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
        return super().derived() | {
            "clip": finite(params.clip),
            "clients_per_round": params.clients_per_round(self.clients),
            "tau_squared": params.tau2,
        }

    def own(self) -> dict[str, Any]:
        """ε by both accountants, in both views; null where nothing is promised."""
        if self.params.method == "fedavg":
            return {}
        ledger = self.ledger(self.state)
        privacy = {
            "delta": self.params.delta,
            "noise_multiplier": ledger.multiplier,
            "uploads": ledger.uploads,
            "upload": {name: finite(ledger.upload(name)) for name in ("rdp", "prv")},
            "model": {name: finite(ledger.model(name)) for name in ("rdp", "prv")},
        }
        return {"privacy": privacy}
