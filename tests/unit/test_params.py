"""Parameters of CodedPrivateML: rules, derived quantities, and how N workers are used."""

import re
from typing import Any

import numpy as np
import pytest

from fedmpi.codedml.params import Params
from fedmpi.errors import UsageError


def test_the_defaults_are_the_papers() -> None:
    params = Params()
    assert (params.degree, params.data_bits, params.weight_bits, params.coefficient_bits) == (1, 2, 6, 3)
    assert params.prime == 2**25 - 39
    assert params.iterations == 50
    assert params.fit_range == (-5.0, 5.0)
    assert not params.insecure_repeatable_masks


# N, options, K, T; for r = 1 see section V: case 1 K = ⌊(N-1)/3⌋, T = 1; case 2 T = ⌊(N-3)/6⌋, K = ⌊(N+2)/3⌋ - T
USES = [
    (50, {"case": 1}, 16, 1),
    (50, {"case": 2}, 10, 7),
    (50, {}, 10, 7),
    (40, {"case": 1}, 13, 1),
    (40, {"case": 2}, 8, 6),
    (10, {}, 3, 1),
    (10, {"case": 1}, 3, 1),
    (4, {}, 1, 1),
    (6, {}, 1, 1),
    (7, {}, 2, 1),
    (50, {"degree": 2}, 6, 4),
    (50, {"degree": 2, "case": 1}, 9, 1),
    (50, {"degree": 3}, 5, 3),
    (50, {"parallelization": 5, "privacy": 3}, 5, 3),
    (50, {"parallelization": 5}, 5, 12),
    (50, {"privacy": 3}, 14, 3),
    (50, {"parallelization": 17, "privacy": None}, None, None),
]


@pytest.mark.parametrize(("workers", "options", "K", "T"), USES)
def test_how_n_workers_are_used(workers: int, options: dict[str, Any], K: int | None, T: int | None) -> None:
    params = Params(prime=2147483647, coefficient_bits=10, **options)
    if K is None:
        with pytest.raises(UsageError, match=re.escape("3·(17+1-1)+1 = 52, got N=50")):
            params.code(workers)
        return
    code = params.code(workers)
    assert (code.parallelization, code.privacy, code.workers) == (K, T, workers)
    assert code.degree == 2 * params.degree + 1


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("case", [1, 2])
def test_cases_use_all_workers_that_can_be_used(degree: int, case: Any) -> None:
    f = 2 * degree + 1
    params = Params(degree=degree, case=case, coefficient_bits=10)
    for workers in range(f + 1, 120):
        code = params.code(workers)
        assert code.parallelization + code.privacy == (workers - 1) // f + 1
        assert code.recovery_threshold <= workers < code.recovery_threshold + f
        if case == 1:
            assert code.privacy == 1
        elif degree == 1:
            assert code.privacy == max(1, (workers - 3) // 6)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_too_few_workers_for_k_and_t_of_one(degree: int, workers: int) -> None:
    f = 2 * degree + 1
    expected = f"{f}·(K+T-1)+1 = {f + 1} for K = T = 1 and degree r={degree}, got N={workers} (start {f + 2} ranks"
    with pytest.raises(UsageError, match=re.escape(expected)):
        Params(degree=degree, coefficient_bits=10).code(workers)


@pytest.mark.parametrize("options", [{"parallelization": 0}, {"parallelization": -2, "privacy": 3}])
def test_k_below_one(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"K must be at least 1, got {options['parallelization']}"):
        Params(**options).code(20)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"privacy": 0}, {"parallelization": 3, "privacy": -1}])
def test_t_below_one(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"T must be at least 1, got {options['privacy']}"):
        Params(**options).code(20)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"parallelization": 3}, {"privacy": 2}, {"parallelization": 3, "privacy": 2}])
def test_a_case_and_k_or_t_contradict_each_other(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="--case must not be given together with -K or -T"):
        Params(case=1, **options)  # type: ignore[arg-type]


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"degree": 0}, "--degree must be at least 1, got 0"),
    ({"data_bits": -1}, "--data-bits must be at least 0, got -1"),
    ({"weight_bits": -1}, "--weight-bits must be at least 0, got -1"),
    ({"coefficient_bits": -1}, "--coefficient-bits must be at least 0, got -1"),
    ({"iterations": 0}, "--iterations must be at least 1, got 0"),
    ({"decay": -0.5}, "--decay must be at least 0, got -0.5"),
    ({"decay": float("nan")}, "--decay must be at least 0, got nan"),
    ({"decay": float("inf")}, "--decay must be at least 0, got inf"),
    ({"model": "linear", "degree": 2}, "--degree must be 1 for a linear model, got 2"),
    ({"scale": "big"}, "--scale must be max, none or a positive number, got big"),
    ({"scale": "0"}, "--scale must be max, none or a positive number, got 0"),
    ({"scale": "-1"}, "--scale must be max, none or a positive number, got -1"),
    ({"scale": "inf"}, "--scale must be max, none or a positive number, got inf"),
    ({"learning_rate": "3/L"}, "--learning-rate must be 2/L, 1/L or a positive number, got 3/L"),
    ({"learning_rate": "0"}, "--learning-rate must be 2/L, 1/L or a positive number, got 0"),
    ({"learning_rate": "nan"}, "--learning-rate must be 2/L, 1/L or a positive number, got nan"),
    ({"learning_rate": "inf"}, "--learning-rate must be 2/L, 1/L or a positive number, got inf"),
    ({"learning_rate": "-1"}, "--learning-rate must be 2/L, 1/L or a positive number, got -1"),
    ({"prime": 33554395}, "must be prime, got 33554395 = 5·7·277·3461; nearest below: 33554393"),
    ({"prime": 2**26}, "nearest below: 67108859"),
    ({"prime": 2**31}, "must be an odd prime below 2^31, got 2147483648"),
    ({"prime": 0}, "must be an odd prime below 2^31, got 0"),
    ({"fit_range": (5.0, -5.0)}, "the fit range must rise, got 5.0 -5.0"),
    ({"fit_range": (float("-inf"), 5.0)}, "fit range"),
    ({"fit_range": (-5.0, float("nan"))}, "fit range"),
    ({"coefficient_bits": 0}, "--coefficient-bits must be at least 2 for the coefficient of degree 1"),
    ({"degree": 3}, "for the coefficient of degree 3 (-0.00"),
]


@pytest.mark.parametrize(("options", "message"), INVALID, ids=str)
def test_a_value_that_breaks_its_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        Params(**options)
    assert "\n" not in str(error.value)


def test_the_bits_that_the_message_asks_for_are_enough() -> None:
    for degree in (1, 3):
        with pytest.raises(UsageError) as error:
            Params(degree=degree, coefficient_bits=0)
        needed = int(re.search(r"at least (\d+)", str(error.value))[1])  # type: ignore[index]
        assert Params(degree=degree, coefficient_bits=needed).coefficients[-1] != 0
        with pytest.raises(UsageError):
            Params(degree=degree, coefficient_bits=needed - 1)


def test_coefficients_and_scales() -> None:
    params = Params()
    assert params.gradient_bits == 2 + (2 + 6) + 3
    c0, c1 = (c / 2**bits for c, bits in zip(params.coefficients, (11, 3), strict=True))
    assert c0 == pytest.approx(0.5, abs=2**-12)
    assert c1 == pytest.approx(0.144, abs=2**-4)
    cubic = Params(degree=3, data_bits=1, weight_bits=3, coefficient_bits=8)
    assert cubic.gradient_bits == 1 + 3 * 4 + 8
    assert len(cubic.coefficients) == 4
    assert cubic.coefficients[2] == 0, "least squares on a symmetric range has no even term (erratum 7)"


def test_a_linear_model_is_exact() -> None:
    for bits in (0, 3, 8):
        params = Params(model="linear", coefficient_bits=bits)
        assert params.coefficients == [0, 2**bits]


@pytest.mark.parametrize(
    ("options", "eigenvalue", "rows", "expected"),
    [
        ({}, 800.0, 100, 1.0),  # L = 800/400 = 2
        ({"learning_rate": "2/L"}, 800.0, 100, 1.0),
        ({"learning_rate": "1/L"}, 800.0, 100, 0.5),
        ({"learning_rate": "0.25"}, 800.0, 100, 0.25),
        ({"model": "linear"}, 800.0, 100, 0.125),  # L = 800/100
        ({"model": "linear", "learning_rate": "2/L"}, 800.0, 100, 0.25),
        ({"learning_rate": "1/L"}, 3.0, 1, 1.33333),
        ({"learning_rate": "1/L"}, 0.0, 10, 1.0),
    ],
)
def test_the_step_size(options: dict[str, Any], eigenvalue: float, rows: int, expected: float) -> None:
    assert Params(**options).step(eigenvalue, rows) == expected


def test_the_step_does_not_show_the_last_bits_of_a_blas() -> None:
    steps = {Params().step(1234.5678 * (1 + error), 77) for error in np.linspace(-1e-12, 1e-12, 21)}
    assert len(steps) == 1
