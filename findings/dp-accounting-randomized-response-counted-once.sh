#!/usr/bin/env bash
# dp-accounting 0.6.0: `PLDAccountant` composes randomized response once, however often it is told to: the count of
# `compose(event, count)` and of `SelfComposedDpEvent` is dropped. No error, no warning; ε of 200 answers is that of one.
# The same event given in a loop, or as a list in `ComposedDpEvent`, is counted each time. So it is with the count by
# `RdpAccountant`, and by `PLDAccountant` with Laplace, discrete Laplace, Gaussian and mixture-of-Gaussians events.
#
# The truth is known without any accountant. With b answers of which the true one is given with probability 1 − p + p/b,
# each other with p/b, an answer's privacy loss is one of three values, and the loss of n answers is their convolution
# [Warner 1965; Kairouz, Oh and Viswanath 2015].
#
# Who collects answers, labels or bits by randomized response, round after round, prints an ε that does not hold.
# What to do: compose the event in a loop (a convolution each, so a second for a thousand), or ask `RdpAccountant`.
#
# Seen at δ = 1e-6, with the exact ε, PLD by count, by SelfComposedDpEvent and in a loop, and RDP by count:
#   p    b     n      exact    count     self     loop      RDP
#   0.9  2     1      0.201    0.201    0.201    0.201    0.206    as it should be
#   0.9  2    10      2.006    0.201    0.201    2.007    2.007
#   0.5  2    20     21.972    1.099    1.099   21.974   21.972
#   0.9  3   200     20.939    0.288    0.288   20.944   22.068
# Exits with 1 if any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q dp-accounting==0.6.0 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys

import numpy as np
from dp_accounting import NeighboringRelation, SelfComposedDpEvent
from dp_accounting.dp_event import RandomizedResponseDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

DELTA = 1e-6


def exact(p: float, b: int, n: int) -> float:
    given, other = 1 - p + p / b, p / b
    probabilities = np.ones(1)
    for _ in range(n):
        probabilities = np.convolve(probabilities, [other, (b - 2) * other, given])
    losses = math.log(given / other) * np.arange(-n, n + 1)

    def excess(epsilon: float) -> float:
        worse = losses > epsilon
        return -(probabilities[worse] * np.expm1(epsilon - losses[worse])).sum() - DELTA

    return brentq(excess, 0, losses[-1])


def accounted(kind: type[PLDAccountant] | type[RdpAccountant], *events: object, count: int = 1) -> float:
    accountant = kind(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    for event in events:
        accountant.compose(event, count)
    return accountant.get_epsilon(DELTA)


same = True
for p, b, n in ((0.9, 2, 1), (0.9, 2, 10), (0.5, 2, 20), (0.9, 3, 200)):
    event, truth = RandomizedResponseDpEvent(p, b), exact(p, b, n)
    counted = accounted(PLDAccountant, event, count=n)
    composed = accounted(PLDAccountant, SelfComposedDpEvent(event, n))
    looped = accounted(PLDAccountant, *[event] * n)
    rdp = accounted(RdpAccountant, event, count=n)
    print(f"{p:<4} {b:<3} {n:>4} {truth:10.3f} {counted:8.3f} {composed:8.3f} {looped:8.3f} {rdp:8.3f}")
    same &= counted == composed == accounted(PLDAccountant, event)
    same &= 0 <= looped - truth < 0.01 and truth <= rdp + 1e-9 < 1.1 * truth
sys.exit(0 if same else "the behaviour has changed")
PYTHON
