"""Algorithm 1 of CodedPrivateML [So et al. 2021], one function per role.

Letters: X̄ (m, d) quantized data, W̄ (d, r, C) quantized weights, K blocks, T masks, N workers, R recovery
threshold, r degree of the polynomial, C outputs (1, or one per class), q primes, for each of which all is done apart.
A suffix `_tilde` means coded.

Without a polynomial (degree 0 in `Setup`) an iteration has two exchanges of degree 2: the workers multiply X̃ by a coded
direction, the master applies the sigmoid to what it decodes, and they multiply X̃ᵀ by the coded residuals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.dealing import MASTER, Deal, Delivery, receive_data
from fedmpi.codedml.faults import NO_FAULTS, Faults
from fedmpi.core import FieldArray, Residues
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.costs import Report, gather_reports, report
from fedmpi.net.meaning import POSITIVE, ROWS, between, judged

if TYPE_CHECKING:  # a worker never loads what only the master needs
    from fedmpi.codedml.task import Task, Training


class Setup(Message, tag=1):
    """Master → worker i, once: the primes, the shape of X̃_i, and s(z) = Σ c̄_n z^n; all of it public.

    `degree` is r, or 0 for two exchanges without a polynomial. `again`: the data of the last training is meant, and
    none follows.
    """

    training: int
    timeout_seconds: Annotated[float, POSITIVE]
    rows: Annotated[int, between(1, ROWS)]
    columns: Annotated[int, between(1, ROWS)]
    outputs: Annotated[int, between(1, ROWS)]
    degree: int
    again: bool
    primes: Annotated[UInt32, judged("fedmpi.codedml.protocol:residues_of")]
    coefficients: Annotated[UInt32, judged("fedmpi.codedml.protocol:elements")]


class CodedWeights(Message, tag=3):
    """Master → worker i, each iteration: W̃_i, shape (q, d, r, C)."""

    training: int
    iteration: int
    W_tilde: Annotated[UInt32, judged("fedmpi.codedml.protocol:elements")]


class CodedGradient(Message, tag=4):
    """Worker i → master, each iteration: f(X̃_i, W̃_i), shape (q, d, C)."""

    training: int
    iteration: int
    gradient: Annotated[UInt32, judged("fedmpi.codedml.survival:Answers.gather")]


class Stop(Message, tag=5):
    """Master → worker: training is over."""


class CodedVectors(Message, tag=7):
    """Master → worker i, twice an iteration: a coded direction, shape (q, d, C), or coded residuals, (q, rows, C).

    `iteration` counts exchanges. `transposed`: multiply X̃_iᵀ by them.
    """

    training: int
    iteration: int
    transposed: bool
    V_tilde: Annotated[UInt32, judged("fedmpi.codedml.protocol:elements")]


class CodedProduct(Message, tag=8):
    """Worker i → master: X̃_i Ṽ_i, shape (q, rows, C), or X̃_iᵀ Ṽ_i, (q, d, C)."""

    training: int
    iteration: int
    product: Annotated[UInt32, judged("fedmpi.codedml.survival:Answers.gather")]


Encoded = tuple[Any, ...]
"""What the workers of a channel hold: a digest of the rows, the numbers of the code, the primes."""

_held: WeakKeyDictionary[Channel, Encoded] = WeakKeyDictionary()


def master(ch: Channel, task: "Task") -> "Training":
    """Algorithm 1, lines 1–8 and 12–18.

    Workers may be slow, die or lie: the training needs R of them, and for A = --byzantine liars R + A to R + 2A.

    Raises
    ------
    TooFewWorkers
        If so many workers have departed that the training can't go on.
    """
    from fedmpi.codedml.descent import check_ahead

    workers = CodedWorkers(ch, task)
    check_ahead(task.params, task.problem, workers.blocks)
    ch.tolerated = range(1, ch.size)
    with ch.phase("encode"):  # lines 2–3
        wanted, held = encoded(task, workers) if task.keep else None, forget(ch)
        workers.set_up(again=wanted is not None and wanted == held)
        if wanted is not None:
            _held[ch] = wanted
    trained = task.train(ch, workers, workers.blocks, lambda: stop(ch))
    if not workers.complete:
        forget(ch)
    return replace(trained, departures=workers.collected.departures)


def encoded(task: "Task", workers: "CodedWorkers") -> Encoded:
    """What the workers are about to hold."""
    from fedmpi.runs.checkpoint import digest_of

    X_bar, code = task.problem.X_bar, workers.codes[0]
    return digest_of(X_bar), code.parallelization, code.privacy, code.workers, *workers.residues.primes


def forget(ch: Channel) -> Encoded | None:
    """What the workers of a channel hold, of which the next training may leave nothing."""
    return _held.pop(ch, None)


class CodedWorkers:
    """The workers as the master sees them: it encodes what they multiply, and decodes from the fastest.

    Implements `fedmpi.codedml.descent.Workers`.
    """

    def __init__(self, ch: Channel, task: "Task"):
        from fedmpi.codedml.survival import Answers, Pacing

        params, problem = task.params, task.problem
        self._ch, self._params, self._uniforms, self._seed = ch, params, task.uniforms, task.seed
        self._problem = problem
        self.residues = problem.precision.residues
        self.codes = [params.code(ch.size - 1, field) for field in self.residues.fields]
        self._workers = range(1, ch.size)
        (self._m, self._d), self._outputs = problem.X_bar.shape, problem.objective.Y.shape[1]
        self.blocks = row_blocks(self._m, self.codes[0].parallelization)
        self._rows = self.blocks[0].stop
        # On a channel that trains several times, answers may come after their training: they don't count in the next.
        self._training = ch.meter.messages_sent["Setup"]
        self._delivery: Delivery | None = None
        self._pacing, self.collected = Pacing(ch), Answers(ch, self.codes, params.byzantine, task.uniforms)

    def set_up(self, *, again: bool) -> None:
        """Lines 2–3: tell the workers what is coming, and send them their coded data unless they hold it."""
        from fedmpi.codedml.descent import public_coefficients

        ch, params, residues = self._ch, self._params, self.residues
        public = [] if params.degree is None else public_coefficients(params, self._problem)
        coefficients = np.stack([field.array(np.array(public, object)) for field in residues.fields])
        shape = (self._rows, self._d, self._outputs, params.degree or 0)
        primes = np.array(residues.primes, np.uint32)
        for worker in self._workers:
            ch.send(worker, Setup(self._training, ch.timeout_seconds, *shape, again, primes, coefficients))
        if not again:
            completions = [code.completion for code in self.codes]
            deal = Deal(completions, residues, self._problem.X_bar, self.blocks, self._seed)
            self._delivery = Delivery(ch, self._workers, deal)
            self._delivery.begin(self.codes[0].recovery_threshold + 2 * params.byzantine)

    @property
    def complete(self) -> bool:
        """Whether all workers have their data: one that was slow joins the training late, or not at all."""
        return self._delivery is None or not self._delivery.behind

    def polynomial(
        self, step: int, W_bar: NDArray[np.int64], bits: int, runs: int, meanwhile: Callable[[], None]
    ) -> NDArray[np.float64]:
        """Lines 7–8 and 12–13."""
        with self._ch.phase("encode"):  # line 7
            coded = self._shares(self.residues.from_signed(W_bar.transpose(1, 0, 2)), repeated=True)
        self._send(step, lambda share: CodedWeights(self._training, step, share), coded)
        answers = self._answers(step, CodedGradient, "gradient", (self._d, self._outputs), meanwhile)
        with self._ch.phase("decode"):
            return self._sum_of_blocks(answers, bits, runs)

    def multiply(
        self, step: int, V: NDArray[np.int64], transposed: bool, bits: int, meanwhile: Callable[[], None]
    ) -> NDArray[np.float64]:
        """One of the two exchanges of an iteration without a polynomial."""
        K, shape = len(self.blocks), (self._d if transposed else self._rows, self._outputs)
        with self._ch.phase("encode"):
            if transposed:  # every block of rows has residuals of its own; those of rows of zeros do not matter
                padded = np.zeros((K * self._rows, self._outputs), np.int64)
                padded[: self._m] = V
                V = padded.reshape(K, self._rows, self._outputs)
            coded = self._shares(self.residues.from_signed(V), repeated=not transposed)
        self._send(step, lambda share: CodedVectors(self._training, step, transposed, share), coded)
        answers = self._answers(step, CodedProduct, "product", shape, meanwhile)
        with self._ch.phase("decode"):
            if transposed:
                return self._sum_of_blocks(answers, bits, 1)
            blocks = np.stack([code.decode(part) for code, part in zip(self.codes, answers, strict=True)])
            return self.residues.reals(blocks.reshape(len(self.codes), -1, self._outputs)[:, : self._m], bits)

    def _shares(self, values: FieldArray, *, repeated: bool) -> list[FieldArray]:
        """Each worker's share, shape (q, *s), of one block for all or of K blocks, with fresh masks for each prime."""
        parts = []
        for code, uniform, part in zip(self.codes, self._uniforms, values, strict=True):
            parts.append(code.encode_repeated(part, uniform) if repeated else code.encode(part, uniform))
        return shares_by_worker(parts)

    def _send(self, step: int, message: Callable[[FieldArray], Message], shares: list[FieldArray]) -> None:
        with self._ch.phase("communicate"):  # line 8
            for worker, share in zip(self._workers, shares, strict=True):
                self._pacing.send(worker, step, message(share))

    def _answers(
        self, step: int, cls: type[Any], name: str, shape: tuple[int, ...], meanwhile: Callable[[], None]
    ) -> list[dict[int, FieldArray]]:
        """For each prime: worker (0 ≤ i < N) → what it answered, from the fastest."""
        ch = self._ch
        with ch.phase("evaluate"):
            meanwhile()
        if self._delivery is not None:
            with ch.phase("encode"):
                self._delivery.catch_up()

        def receive(count: int, more_than: Mapping[int, Any]) -> dict[int, Any]:
            return ch.gather_first(
                count,
                self._workers,
                cls,
                shapes={name: (len(self.codes), *shape)},
                more_than=more_than,
                heard=self._pacing.heard,
                training=self._training,
                iteration=step,
            )

        iteration = step if self._params.degree else step // 2
        with ch.phase("wait"):  # line 12: from the fastest workers
            arrays = self.collected.gather(iteration, receive, name)
        return [{i: array[j] for i, array in arrays.items()} for j in range(len(self.codes))]

    def _sum_of_blocks(self, answers: Sequence[dict[int, FieldArray]], bits: int, runs: int) -> NDArray[np.float64]:
        """Line 13, and the sum over the blocks: of each of so many runs in the field, of the runs as integers."""
        sums = [code.decode_sums(part, runs) for code, part in zip(self.codes, answers, strict=True)]
        return self.residues.sum_reals(np.stack(sums), bits)


def shares_by_worker(parts: list[FieldArray]) -> list[FieldArray]:
    """From all workers' shares per prime to one array for each worker, shape (q, *s); without a copy if q = 1."""
    shares = parts[0][:, None] if len(parts) == 1 else np.stack(parts, axis=1)
    shares.flags.writeable = False  # lets the channel send them without a copy
    return list(shares)


def stop(ch: Channel) -> dict[int, Report]:
    """Line 18: end the training, and return what the workers report; the model does not wait for one that hangs."""
    with ch.phase("close"):
        for worker in range(1, ch.size):
            ch.send(worker, Stop())
        return gather_reports(ch)


def row_blocks(rows: int, parallelization: int) -> list[slice]:
    """K blocks of ⌈m/K⌉ rows; what is missing in the last ones counts as rows of zeros, which change no gradient."""
    size = -(-rows // parallelization)
    return [slice(k * size, (k + 1) * size) for k in range(parallelization)]


def worker(ch: Channel, setup: Setup, faults: Faults = NO_FAULTS, held: FieldArray | None = None) -> FieldArray:
    """Algorithm 1, lines 9–11. A worker that falls behind skips to the newest request.

    Parameters
    ----------
    held : array, optional
        X̃_i of the last training.

    Returns
    -------
    X̃_i, for another training on the same rows; without a row if the training ended before it was here
    """
    residues = residues_of(setup.primes)
    ch.outwait(setup.timeout_seconds)
    q = len(residues)
    coefficients = elements(residues, setup.coefficients, MASTER)
    if coefficients.shape != (q, setup.degree + 1 if setup.degree else 0):
        raise ProtocolError(f"Setup must hold {setup.degree} + 1 coefficients, got {coefficients.shape}")
    if not setup.again:
        received = receive_data(ch, residues, setup.rows, setup.columns, Stop)
        if received is None:
            ch.send(MASTER, report(ch))
            return np.empty((q, 0, setup.columns), np.uint32)
        X = received
    elif held is not None and held.shape == (q, setup.rows, setup.columns) and residues.contains(held):
        X = held
    else:
        raise ProtocolError("Setup must name data that this worker holds, got another")
    request: type[CodedWeights | CodedVectors] = CodedWeights if setup.degree else CodedVectors
    shapes = {"W_tilde": (q, setup.columns, setup.degree, setup.outputs), "V_tilde": (q, None, setup.outputs)}
    while True:
        asked = ch.recv_latest(MASTER, request, until=Stop, shapes=shapes, training=setup.training)
        if asked is None:
            break
        with ch.phase("compute"):
            answer = computed(residues, X, coefficients, asked)
        iteration = asked.iteration if setup.degree else asked.iteration // 2
        sent = faults.strike(residues, iteration, answer)
        if sent is not None:
            kind = CodedGradient if setup.degree else CodedProduct
            ch.send(MASTER, kind(setup.training, asked.iteration, sent))
    ch.send(MASTER, report(ch))
    return X


def computed(
    residues: Residues, X: FieldArray, coefficients: FieldArray, asked: "CodedWeights | CodedVectors"
) -> FieldArray:
    """A worker's answer, for each prime apart."""
    fields = residues.fields
    if isinstance(asked, CodedWeights):
        W = elements(residues, asked.W_tilde, MASTER)
        return np.stack([field.gradient(x, w, c) for field, x, w, c in zip(fields, X, W, coefficients, strict=True)])
    V = elements(residues, asked.V_tilde, MASTER)
    if V.shape[1] != X.shape[1 if asked.transposed else 2]:
        raise ProtocolError(f"CodedVectors must fit the data of shape {X.shape}, got {V.shape}")
    if asked.transposed:
        return np.stack([field.transposed_product(x, v) for field, x, v in zip(fields, X, V, strict=True)])
    return np.stack([field.product(x, v) for field, x, v in zip(fields, X, V, strict=True)])


def residues_of(primes: NDArray[np.uint32]) -> Residues:
    """The moduli that a message names."""
    try:
        return Residues([int(p) for p in primes.reshape(-1)[:4]])
    except UsageError as error:
        raise ProtocolError(f"{error}") from None


def elements(residues: Residues, values: FieldArray, rank: int) -> FieldArray:
    """Received residues, refused unless each is below its prime: the kernels rely on it."""
    if not residues.contains(values):
        limit, largest = min(residues.primes), values.max(initial=0)
        raise ProtocolError(f"field elements from rank {rank} must be below {limit}, got {largest}")
    return values
