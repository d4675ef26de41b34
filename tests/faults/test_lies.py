"""Lies in messages: every field of every message has a check of what it means, and the liar alone is left out."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.test_hostile_frames import TYPES
from protocol.niss_threads import train_on_threads as train_niss
from protocol.niss_threads import trained_host
from protocol.ppadmm_threads import problem
from protocol.ppadmm_threads import train_on_threads as train_ppadmm

from fedmpi.codedml.protocol import residues_of
from fedmpi.crypto.keys import LOW_ORDER, PRIME, KeyPair, of_full_order
from fedmpi.data import load
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.federated import messages as federation
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.meaning import LARGEST, Rule
from fedmpi.niss import client as niss_client
from fedmpi.niss import protocol as niss
from fedmpi.niss import tracker as niss_tracker
from fedmpi.niss.params import Params as NissParams
from fedmpi.pbpfl import messages as pbpfl
from fedmpi.pbpfl import protocol as pbpfl_server
from fedmpi.pbpfl.params import Params as PbpflParams
from fedmpi.ppadmm import dssgd, rounds
from fedmpi.ppadmm.params import FIRST_ITERATION, SQUARES, SUMS, Params
from fedmpi.ppadmm.protocol import Own, participant
from fedmpi.ppadmm.service import salt_of
from fedmpi.runs.job import Job
from fedmpi.spn import protocol as spn

NISS = NissParams("niss", clients=12, rounds=3, epochs=1, learning_rate=0.1, noise_std=0.5, share_count=3)
FEDAVG = replace(NISS, method="fedavg")
TESTS = Path(__file__).parent.parent
FIELDS = [(cls, name) for cls in TYPES for name in cls._types]
NAN, INF, HUGE = float("nan"), float("inf"), 1e300
WRAPPED = 2**64 - 79
ONE = np.array([1], np.uint32)

ENDLESS = {"Order.values"}
"""Where infinity means something: the scale of what is constant."""


def u32(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def rule_of(cls: type[Message], name: str) -> Rule:
    rule = cls.rules[name]
    assert rule is not None, f"{cls.__name__}.{name} must say what it may hold"
    return rule


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_field_of_every_message_says_what_it_may_hold(cls: type[Message], name: str) -> None:
    """A new message, or a new field, without a check fails here."""
    rule = rule_of(cls, name)
    assert rule.text or rule.judge or len(rule.reason) > 10
    if rule.judge:
        module, _, path = rule.judge.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        assert callable(found)


def lies(kind: Any) -> list[Any]:
    """What no field of a kind may hold, unless its rule says why."""
    if kind is float:
        return [NAN, INF, -INF]
    if kind == np.dtype("<f8"):
        return [np.array([1.0, lie]) for lie in (NAN, INF, -INF)]
    if kind is int:
        return [-1, WRAPPED - 2**64, 2**62]
    return ["\x1b[2J", "a\nb", "\u202egnp"] if kind is str else []


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda value: getattr(value, "__name__", value))
def test_no_number_or_text_that_means_nothing_is_taken(cls: type[Message], name: str) -> None:
    """NaN and infinity, negative and wrapped counts, text that a terminal would act upon: refused as they arrive."""
    rule, kind = rule_of(cls, name), cls._types[name]
    for lie in lies(kind):
        if f"{cls.__name__}.{name}" in ENDLESS and np.max(lie) == INF:
            continue
        if rule.text:
            assert not rule.holds(lie), lie
        else:
            assert rule.judge or rule.reason, lie


def test_what_breaks_its_rule_never_reaches_a_role_and_who_is_tolerated_departs() -> None:
    """The liar and its rank are named; the answers of the others are there. So are lies told to a single receiver."""

    def gathers(ch: Channel) -> tuple[list[int], str]:
        ch.tolerated = (1, 2, 3)
        answers = ch.gather_within(5.0, (1, 2, 3), niss.Ledger, round=4)
        return sorted(answers), str(ch.departed)

    def says(*ledgers: niss.Ledger) -> Callable[[Channel], None]:
        def play(ch: Channel) -> None:
            for ledger in ledgers:
                ch.send(0, ledger)

        return play

    good, wrapped = niss.Ledger(4, 3, 1, 2, 0.5), niss.Ledger(4, WRAPPED - 2**64, 1, 2, 0.5)
    stale, nan = replace(good, round=3, variance=NAN), replace(good, variance=NAN)
    there, gone = run_local([gathers, says(good, good), says(stale, wrapped), says(stale, nan, good)])[0]
    assert there == [1]
    assert "Ledger.alive from rank 2 must be from 0 to" in gone
    assert "Ledger.variance from rank 3 must be from 0 to" in gone
    with pytest.raises(ProtocolError, match=r"Ledger\.variance from rank 1 must be"):
        run_local([lambda ch: ch.recv(1, niss.Ledger), says(nan)])


# -- what only the receiver can judge -----------------------------------------------------------------------------

HOMES = {1: np.array([0, 2]), 2: np.array([1])}
FED = pbpfl.Federation({1: frozenset({0, 2}), 2: frozenset({1})}, np.array([10, 20, 30]))
PBPFL = PbpflParams()
ASKED = {3: u32(1, 4)}


def upload(*clients: int) -> niss.Uploads:
    return niss.Uploads(0, u32(*clients), np.zeros((len(clients), 2)))


def changes(*clients: int) -> spn.Changes:
    return spn.Changes(0, 0, u32(*clients), np.zeros((len(clients), 2)))


def ready(clients: np.ndarray, rows: Any) -> federation.Ready:
    return federation.Ready(clients, np.array(rows, np.uint64))


def evaluation(clients: tuple[int, ...], right: list[int]) -> pbpfl.Evaluation:
    return pbpfl.Evaluation(u32(*clients), np.zeros(len(clients)), np.array(right, np.uint64))


def alive(*clients: int, keys: int | None = None) -> niss.Alive:
    count = len(clients) if keys is None else keys
    return niss.Alive(0, u32(*clients), np.ones(len(clients)), np.ones((count, 32), np.uint8))


def neighbours(senders: tuple[int, ...], receivers: tuple[int, ...], clients: tuple[int, ...]) -> niss.Neighbours:
    keys = np.ones((len(clients), 32), np.uint8)
    return niss.Neighbours(0, u32(*senders), u32(*receivers), np.ones(len(senders)), u32(*clients), keys)


def named(*clients: int, values: int = 1) -> pbpfl.Terms:
    return pbpfl.Terms(0, u32(*clients), np.zeros(len(clients)), np.zeros((values, 8), np.uint8))


def kept_by(tau2: float) -> niss.TrackerSetup:
    return niss.TrackerSetup(0.01, 0, 1, 0.0, 0.0, 1e-4, False, 10.0, np.array([NAN, tau2]))


def sampled() -> niss.Sampled:
    return niss.Sampled(0, u32(0, 3, 6), u32(2, 3, 4))


def round_of(*clients: int) -> niss.Round:
    return niss.Round(0, u32(*clients), np.ones(len(clients)), np.zeros(2))


def job(text: str) -> Job[NissParams]:
    return Job.accepted(text, NissParams, None)


def shared(coordinates: np.ndarray, *values: float) -> dssgd.SharedGradient:
    return dssgd.SharedGradient(0, coordinates, np.array(values))


def clear(stage: int, *values: float) -> Any:
    narrow = 2 if stage >= FIRST_ITERATION else 0
    return lambda: rounds.check_clear(stage, narrow, 30, 2, rounds.ClearUpdate(0, np.array(values)))


JUDGED: dict[str, list[Callable[[], Any]]] = {
    "fedmpi.federated.messages:check_rows": [
        lambda: federation.check_rows(HOMES, None, 1, ready(u32(0, 1), [1, 1])),
        lambda: federation.check_rows(HOMES, None, 1, ready(u32(0, 2), [1])),
        lambda: federation.check_rows(HOMES, np.array([10, 20, 30]), 1, ready(u32(0, 2), [10, 2**40])),
    ],
    "fedmpi.niss.protocol:check_uploads": [
        lambda: niss.check_uploads(ASKED, 3, upload(1, 1)),
        lambda: niss.check_uploads(ASKED, 3, upload(2)),
        lambda: niss.check_uploads(ASKED, 3, replace(upload(1, 4), values=np.zeros((1, 2)))),
    ],
    "fedmpi.niss.tracker:check_attendance": [
        lambda: niss_tracker.check_attendance(sampled(), 3, 2, alive(0, 0)),
        lambda: niss_tracker.check_attendance(sampled(), 3, 2, alive(0, 9)),
        lambda: niss_tracker.check_attendance(sampled(), 3, 3, alive(0)),
        lambda: niss_tracker.check_attendance(sampled(), 3, 2, alive(0, keys=2)),
    ],
    "fedmpi.niss.tracker:own_rules": [
        lambda lie=lie: niss_tracker.own_rules(kept_by(lie))  # type: ignore[misc]
        for lie in (-1.0, INF)
    ],
    "fedmpi.niss.client:asked_here": [
        lambda: niss_client.asked_here(round_of(), {1: 5}),
        lambda: niss_client.asked_here(round_of(1, 1), {1: 5}),
        lambda: niss_client.asked_here(round_of(2), {1: 5}),
    ],
    "fedmpi.niss.client:understood": [
        lambda: niss_client.understood(neighbours((1,), (1,), (1, 2))),
        lambda: niss_client.understood(neighbours((1, 1), (2, 2), (1, 2))),
        lambda: niss_client.understood(neighbours((1,), (3,), (1, 2))),
    ],
    "fedmpi.spn.protocol:asked_here": [
        lambda: spn.asked_here(spn.Round(0, 0, u32(1, 1), np.zeros((1, 2))), [1]),
        lambda: spn.asked_here(spn.Round(0, 0, u32(2), np.zeros((1, 2))), [1]),
        lambda: spn.asked_here(spn.Round(0, 0, u32(1, 2), np.zeros((3, 2))), [1, 2]),
    ],
    "fedmpi.spn.protocol:check_changes": [
        lambda: spn.check_changes(ASKED, 3, changes(1, 1)),
        lambda: spn.check_changes(ASKED, 3, changes(1)),
    ],
    "fedmpi.federated.messages:check_named": [
        lambda: federation.check_named(FED.homes, {"values": (None, 8)}, 1, named(0, 0)),
        lambda: federation.check_named(FED.homes, {"values": (None, 8)}, 1, named(1)),
        lambda: federation.check_named(FED.homes, {"values": (None, 8)}, 1, named(0, values=2)),
    ],
    "fedmpi.pbpfl.messages:weights": [
        lambda: pbpfl.weights(pbpfl.to_bytes(np.array([1.0, NAN]), PBPFL), PBPFL),
        lambda: pbpfl.weights(pbpfl.to_bytes(np.array([1.0, -INF]), PBPFL), PBPFL),
    ],
    "fedmpi.pbpfl.protocol:check_evaluation": [
        lambda: pbpfl_server.check_evaluation(FED, 1, evaluation((0, 0), [1, 1])),
        lambda: pbpfl_server.check_evaluation(FED, 1, evaluation((1,), [1])),
        lambda: pbpfl_server.check_evaluation(FED, 1, evaluation((0,), [11])),
        lambda: pbpfl_server.check_evaluation(FED, 1, evaluation((0,), [WRAPPED])),
    ],
    "fedmpi.ppadmm.dssgd:check_shared": [
        lambda: dssgd.check_shared(4, 1.0, 2, shared(u32(1, 1), 0, 0)),
        lambda: dssgd.check_shared(4, 1.0, 2, shared(u32(4), 0)),
        *[
            lambda lie=lie: dssgd.check_shared(4, 1.0, 2, shared(ONE, lie))  # type: ignore[misc]
            for lie in (NAN, INF, -INF, HUGE, 1.01)
        ],
    ],
    "fedmpi.runs.job:Job.accepted": [lambda: job("{}"), lambda: job("\0"), lambda: job("[" * 9999)],
    "fedmpi.runs.job:Job.from_json": [lambda: Job.from_json("{}", NissParams)],
    "fedmpi.codedml.protocol:residues_of": [lambda: residues_of(u32()), lambda: residues_of(u32(4))],
    "fedmpi.data.dataset:Dataset.check_same": [lambda: load("synthetic:m=20,d=3,density=1").check_same(b"other", 1)],
    "fedmpi.ppadmm.rounds:check_clear": [
        *[clear(FIRST_ITERATION, 0, lie, 1, 1, 1) for lie in (NAN, INF, -INF, HUGE)],
        clear(FIRST_ITERATION, 0, 0, 1, -1, 1),
        clear(SUMS, -79, 1, 1),
        clear(SUMS, 1.5, 1, 1),
        clear(SUMS, HUGE, 1, 1),
        clear(SQUARES, 1, -1),
    ],
}

ELSEWHERE = {
    "fedmpi.copml.member:Owner.checked": ("faults/test_copml_survival.py", "field elements from rank 2"),
    "fedmpi.copml.service:going_on": ("protocol/test_copml.py", "must hold 7 whole weights"),
    "fedmpi.copml.protocol:Coded.choose": ("faults/test_copml_survival.py", "Chosen must name"),
    "fedmpi.securesum.scheme:Scheme.check_hidden": ("protocol/test_niss_secure_sum.py", "no_residues"),
    "fedmpi.securesum.scheme:Scheme.check_told": ("protocol/test_niss_secure_sum.py", "no_residues"),
    "fedmpi.attacks.protocol:_cases": ("attacks/test_attack_command.py", "labels below"),
    "fedmpi.codedml.baseline:gradient_of": ("protocol/test_codedml_baselines.py", "must be of iteration"),
    "fedmpi.codedml.dealing:Share.take": ("protocol/test_codedml.py", "CodedData"),
    "fedmpi.codedml.protocol:elements": ("protocol/test_codedml.py", "field elements from"),
    "fedmpi.codedml.survival:Answers.gather": ("protocol/test_codedml.py", "sent field elements"),
    "fedmpi.data:Preparation.from_json": ("data/test_preparation.py", "Preparation.from_json"),
    "fedmpi.federated.statistics:check_meaning": ("product/test_own_rows.py", "check_meaning"),
    "fedmpi.mpc.bh08:compare_opened": ("faults/test_mpc_byzantine.py", "must open the same"),
    "fedmpi.mpc.party:Party.checked": ("protocol/test_mpc.py", "field elements from"),
    "fedmpi.net.endpoint:Endpoint.poll_notice": ("messages/test_channel_local.py", "Notice("),
    "fedmpi.net.frames:read_told": ("report/test_report_files.py", "read_told"),
    "fedmpi.niss.client:open_shares": ("protocol/test_niss.py", "sealed by its sender"),
    "fedmpi.niss.protocol:aggregate": ("protocol/test_niss.py", "uploaded values"),
    "fedmpi.pbpfl.protocol:collect_clear": ("protocol/test_pbpfl.py", "training diverges"),
    "fedmpi.spn.protocol:collect": ("protocol/test_spn.py", "missing: lost.extend"),
}
"""Judges that are tried in other files, and where."""


def test_every_judge_is_tried() -> None:
    judges = {rule_of(cls, name).judge for cls, name in FIELDS} - {""}
    assert judges == JUDGED.keys() | ELSEWHERE.keys()
    for file, words in ELSEWHERE.values():
        assert words in (TESTS / file).read_text(), file


@pytest.mark.parametrize("judge", JUDGED)
def test_what_its_receiver_knows_to_be_untrue_is_refused(judge: str) -> None:
    for lie in JUDGED[judge]:
        with pytest.raises((ProtocolError, UsageError)):
            lie()


def test_keys_of_low_order_are_those_with_which_the_secret_is_known() -> None:
    """The integers against the library; also with the highest bit set, and beyond the prime."""
    forms = [point + beyond for point in LOW_ORDER for beyond in (0, PRIME) if point + beyond < 2**255]
    for point in [form + bit for form in forms for bit in (0, 2**255)]:
        key = point.to_bytes(32, "little")
        assert not of_full_order(KeyPair().public + key)
        with pytest.raises(ProtocolError, match="low order"):
            KeyPair().shared(key, info=b"")
    assert of_full_order(KeyPair().public)
    assert not of_full_order(KeyPair().public[:31])


# -- whole trainings: the liar is left out, and the rest is as if it had never been there ----------------------------


def saying(change: Callable[[Any], Any], role: Callable[[Channel], Any]) -> Callable[[Channel], Any]:
    def play(ch: Channel) -> Any:
        send = ch.send
        ch.send = lambda dest, message: send(dest, change(message))  # type: ignore[method-assign]
        return role(ch)

    return play


@pytest.mark.parametrize("lie", [NAN, INF, HUGE])
def test_admm_in_the_clear_leaves_the_liar_out(lie: float) -> None:
    """NaN and 1e300 became the model, with exit code 0."""
    parts = problem(4, 30, 6)
    params = Params(method="admm", iterations=20, tolerance=0, penalty=1.0)

    def change(message: Any) -> Any:
        return (
            rounds.ClearUpdate(message.round, message.values * lie) if type(message) is rounds.ClearUpdate else message
        )

    liar = saying(change, lambda ch: participant(ch, params, Own(*parts[3], salt_of(params))))
    lied = train_ppadmm(params, parts, roles={5: liar})
    honest = train_ppadmm(replace(params, min_participants=3), parts[:3])
    assert np.array_equal(lied.training.coefficients, honest.training.coefficients)
    assert [gone["rank"] for gone in lied.training.failures] == [5]
    assert "values from rank 5 must be finite" in lied.training.failures[0]["reason"]


def test_niss_leaves_a_host_out_that_names_a_client_twice_and_a_client_whose_numbers_are_too_large() -> None:
    def twice(message: Any) -> Any:
        if type(message) is not niss.Uploads:
            return message
        return niss.Uploads(message.round, message.clients[[0, 0]], message.values[:2])

    def huge(message: Any) -> Any:
        if type(message) is not niss.Uploads:
            return message
        values = message.values.copy()
        values[0, 0] = HUGE
        return niss.Uploads(message.round, message.clients, values)

    params = replace(FEDAVG, fraction=1.0, rounds=2)
    threads = train_niss(params, roles={3: saying(twice, trained_host()), 4: saying(huge, trained_host())})
    first, second = threads.outcomes
    assert "Uploads.clients from rank 3 must be a list without anything twice" in str(threads.channels[0].departed[3])
    assert [gone["client"] for gone in first.lost] == [1, 2, 4, 7, 10]
    assert f"{-LARGEST:g}" in next(gone["reason"] for gone in second.lost if gone["client"] == 2)
    assert second.arrived == 7, "the honest ones stay"


def test_niss_leaves_a_host_out_whose_keys_are_zero() -> None:
    """Both honest hosts left, and the liar trained alone."""

    def zero(message: Any) -> Any:
        return replace(message, keys=np.zeros_like(message.keys)) if type(message) is niss.Alive else message

    def liar(ch: Channel) -> None:
        with pytest.raises(ProtocolError):
            saying(zero, trained_host())(ch)

    params = replace(NISS, fraction=1.0, rounds=1)
    threads = train_niss(params, roles={3: liar}, timeout_seconds=3.0)
    assert "Alive.keys from rank 3 must be X25519 public keys" in str(threads.channels[1].departed[3])
    assert sorted(threads.channels[0].departed) in ([], [3])
    assert threads.outcomes[0].arrived == 8
