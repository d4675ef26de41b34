"""Parameters of CodedPrivateML: rules, derived quantities, and how N workers are used."""

import re
from typing import Any

import numpy as np
import pytest

from fedmpi.codedml.params import Params
from fedmpi.errors import UsageError


def test_paper_is_one_flag() -> None:
    params = Params(paper=True)
    assert (params.degree, params.data_bits, params.weight_bits, params.coefficient_bits) == (1, 2, 6, 3)
    assert params.prime == 2**25 - 39
    assert params.iterations == 50
    assert params.interval == (-5.0, 5.0)
    assert (params.scale, params.solver, params.l2, params.tolerance) == ("max", "gradient", 0.0, 0.0)
    assert not params.insecure_repeatable_masks
    assert params.fixed_bits
    assert not params.exact


def test_what_is_given_beside_paper_is_honoured() -> None:
    params = Params(paper=True, weight_bits=8, scale="column", primes=2, degree=2, l2=1.0, solver="nesterov",
                    coefficient_bits=9)  # fmt: skip
    assert (params.data_bits, params.weight_bits, params.coefficient_bits) == (2, 8, 9)
    assert (params.prime, params.primes, params.scale, params.l2) == (None, 2, "column", 1.0)
    assert (params.degree, params.solver) == (2, "nesterov")


def test_the_defaults_train_the_sigmoid_itself() -> None:
    params = Params()
    assert params.exact
    assert params.softmax
    assert (params.degree, params.solver, params.scale, params.l2) == (None, "lbfgs", "column", 1.0)
    assert params.stop_below(10) == 1e-4
    assert params.stop_below(3000) == pytest.approx(3e-4)
    assert params.stop_below(10**6) == 1e-3
    assert Params(tolerance=0).stop_below(10) == 0
    assert (params.data_bits, params.weight_bits, params.coefficient_bits) == (None, None, None)
    assert (params.prime, params.primes) == (None, None)
    assert not params.has_ones
    linear = Params(model="linear")
    assert (linear.solver, linear.l2, linear.tolerance) == ("lbfgs", 0.0, 1e-5)


@pytest.mark.parametrize(
    ("options", "solver"),
    [
        ({"degree": 1}, "cg"),
        ({"degree": 2}, "cg"),
        ({"degree": 3}, "lbfgs"),
        ({"method": "bgw"}, "cg"),
        ({"method": "bh08", "degree": 3}, "lbfgs"),
        ({"degree": 1, "weight_bits": 6, "coefficient_bits": 3}, "gradient"),
        ({"degree": 1, "bits": "paper"}, "gradient"),
        ({"bits": "paper"}, "lbfgs"),
    ],
)
def test_the_solver_follows_the_degree(options: dict[str, Any], solver: str) -> None:
    params = Params(**options)
    assert params.solver == solver
    assert (params.stop_below(100) == 0) == (solver == "gradient")
    assert params.has_ones == (params.degree is not None)
    if params.method != "coded":
        assert params.degree is not None


# N, options, K, T. For r = 1 see section V: case 1 K = ⌊(N-1)/3⌋, T = 1; case 2 T = ⌊(N-3)/6⌋, K = ⌊(N+2)/3⌋ - T.
# Without a polynomial R = 2(K+T-1)+1, with the same T.
USES = [
    (50, {}, 18, 7),
    (50, {"case": 2}, 18, 7),
    (50, {"case": 1}, 24, 1),
    (10, {}, 4, 1),
    (10, {"case": 1}, 4, 1),
    (3, {}, 1, 1),
    (5, {}, 2, 1),
    (50, {"parallelization": 5, "privacy": 3}, 5, 3),
    (50, {"parallelization": 5}, 5, 20),
    (50, {"parallelization": 25, "privacy": None}, None, None),
    (50, {"paper": True}, 10, 7),
    (50, {"degree": 1, "case": 1}, 16, 1),
    (50, {"degree": 1, "case": 2}, 10, 7),
    (50, {"degree": 1}, 10, 7),
    (40, {"degree": 1, "case": 1}, 13, 1),
    (40, {"degree": 1, "case": 2}, 8, 6),
    (10, {"degree": 1}, 3, 1),
    (10, {"degree": 1, "case": 1}, 3, 1),
    (4, {"degree": 1}, 1, 1),
    (6, {"degree": 1}, 1, 1),
    (7, {"degree": 1}, 2, 1),
    (50, {"degree": 2}, 6, 4),
    (50, {"degree": 2, "case": 1}, 9, 1),
    (50, {"degree": 3}, 5, 3),
    (50, {"degree": 1, "parallelization": 5, "privacy": 3}, 5, 3),
    (50, {"degree": 1, "parallelization": 5}, 5, 12),
    (50, {"degree": 1, "privacy": 3}, 14, 3),
    (50, {"degree": 1, "parallelization": 17, "privacy": None}, None, None),
]


@pytest.mark.parametrize(("workers", "options", "K", "T"), USES)
def test_how_n_workers_are_used(workers: int, options: dict[str, Any], K: int | None, T: int | None) -> None:
    params = Params(**options)
    if K is None:
        arithmetic = "2·(25+1-1)+1 = 51" if params.exact else "3·(17+1-1)+1 = 52"
        with pytest.raises(UsageError, match=re.escape(f"{arithmetic}, got N=50")):
            params.code(workers)
        return
    code = params.code(workers)
    assert (code.parallelization, code.privacy, code.workers) == (K, T, workers)
    assert code.degree == (2 if params.degree is None else 2 * params.degree + 1)


@pytest.mark.parametrize("degree", [None, 1, 2, 3])
@pytest.mark.parametrize("case", [1, 2])
def test_cases_use_all_workers_that_can_be_used(degree: int | None, case: Any) -> None:
    f = 2 * degree + 1 if degree else 2
    params = Params(degree=degree, case=case)
    for workers in range(f + 1, 120):
        code = params.code(workers)
        assert code.parallelization + code.privacy == (workers - 1) // f + 1
        assert code.recovery_threshold <= workers < code.recovery_threshold + f
        if case == 1:
            assert code.privacy == 1
        else:
            assert code.privacy == max(1, (workers - 3) // max(2 * f, 6))


@pytest.mark.parametrize("degree", [None, 1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_too_few_workers_for_k_and_t_of_one(degree: int | None, workers: int) -> None:
    f = 2 * degree + 1 if degree else 2
    of_degree = f" and degree r={degree}" if degree else ""
    expected = f"{f}·(K+T-1)+1 = {f + 1} for K = T = 1{of_degree}, got N={workers} (start {f + 2} ranks"
    with pytest.raises(UsageError, match=re.escape(expected)):
        Params(degree=degree).code(workers)
    assert Params(degree=degree).code(f + 1).recovery_threshold == f + 1


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
    ({"scale": "big"}, "--scale must be column, std, max, none or a positive number, got big"),
    ({"scale": "0"}, "--scale must be column, std, max, none or a positive number, got 0"),
    ({"scale": "-1"}, "--scale must be column, std, max, none or a positive number, got -1"),
    ({"scale": "inf"}, "--scale must be column, std, max, none or a positive number, got inf"),
    ({"learning_rate": "3/L"}, "--learning-rate must be 2/L, 1/L or a positive number, got 3/L"),
    ({"learning_rate": "0"}, "--learning-rate must be 2/L, 1/L or a positive number, got 0"),
    ({"learning_rate": "nan"}, "--learning-rate must be 2/L, 1/L or a positive number, got nan"),
    ({"learning_rate": "inf"}, "--learning-rate must be 2/L, 1/L or a positive number, got inf"),
    ({"learning_rate": "-1"}, "--learning-rate must be 2/L, 1/L or a positive number, got -1"),
    ({"prime": 33554395}, "must be prime, got 33554395 = 5·7·277·3461; nearest below: 33554393"),
    ({"prime": 2**26}, "nearest below: 67108859"),
    ({"prime": 2**31}, "must be an odd prime below 2^31, got 2147483648"),
    ({"prime": 0}, "must be an odd prime below 2^31, got 0"),
    ({"degree": 1, "fit_range": (5.0, -5.0)}, "the fit range must rise, got 5.0 -5.0"),
    ({"paper": True, "fit_range": (5.0, -5.0)}, "the fit range must rise, got 5.0 -5.0"),
    ({"degree": 1, "fit_range": (float("-inf"), 5.0)}, "fit range"),
    ({"degree": 3, "fit_range": (-5.0, float("nan"))}, "fit range"),
    ({"degree": 3, "fit_range": (-5.0, 4.0)}, "--fit-range must be as wide on both sides of 0 unless"),
    ({"fit_range": (-5.0, 5.0)}, "--fit-range must be used with a polynomial, -r 1 or more, got none"),
    ({"paper": True, "coefficient_bits": 0}, "--coefficient-bits must be at least 2 for the coefficient of degree 1"),
    ({"paper": True, "degree": 3}, "for the coefficient of degree 3 (-0.00"),
    ({"tolerance": -1.0}, "--tolerance must be at least 0, got -1"),
    ({"tolerance": float("nan")}, "--tolerance must be at least 0, got nan"),
    ({"l2": -0.5}, "--l2 must be at least 0, got -0.5"),
    ({"l2": float("inf")}, "--l2 must be at least 0, got inf"),
    ({"spares": -1}, "--spares must be at least 0, got -1"),
    ({"average": True}, "--average must be used with --solver gradient, got lbfgs"),
    ({"solver": "cg", "degree": 3}, "--solver cg must be used with -r 1 or no -r, got 3: take lbfgs"),
    ({"prime": 2**25 - 39, "primes": 2}, "--prime and --primes must not be given together"),
    ({"weight_bits": 6, "coefficient_bits": 3}, "must be used with a polynomial, -r 1 or more, got none"),
    ({"degree": 1, "weight_bits": 6}, "--weight-bits and --coefficient-bits must be given together"),
    ({"degree": 1, "coefficient_bits": 6}, "--weight-bits and --coefficient-bits must be given together"),
    ({"paper": True, "solver": "cg"}, "--weight-bits must be used with --solver gradient or nesterov, got cg"),
    ({"method": "bgw", "spares": 1}, "--spares must not be given with --method bgw, which needs every worker"),
]


@pytest.mark.parametrize(("options", "message"), INVALID, ids=str)
def test_a_value_that_breaks_its_rule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        Params(**options)
    assert "\n" not in str(error.value)


def test_the_bits_that_the_message_asks_for_are_enough() -> None:
    for degree in (1, 3):
        with pytest.raises(UsageError) as error:
            Params(paper=True, degree=degree, coefficient_bits=0)
        needed = int(re.search(r"at least (\d+)", str(error.value))[1])  # type: ignore[index]
        assert Params(paper=True, degree=degree, coefficient_bits=needed).coefficients[-1] != 0
        with pytest.raises(UsageError):
            Params(paper=True, degree=degree, coefficient_bits=needed - 1)


def test_coefficients_and_scales() -> None:
    params = Params(paper=True)
    assert params.gradient_bits == 2 + (2 + 6) + 3
    c0, c1 = (c / 2**bits for c, bits in zip(params.coefficients, (11, 3), strict=True))
    assert c0 == pytest.approx(0.5, abs=2**-12)
    assert c1 == pytest.approx(0.144, abs=2**-4)
    cubic = Params(paper=True, degree=3, data_bits=1, weight_bits=3, coefficient_bits=8)
    assert cubic.gradient_bits == 1 + 3 * 4 + 8
    assert len(cubic.coefficients) == 4
    assert cubic.coefficients[2] == 0, "least squares on a symmetric range has no even term (erratum 7)"


def test_a_linear_model_is_exact() -> None:
    for bits in (0, 3, 8):
        params = Params(paper=True, model="linear", coefficient_bits=bits)
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
        ({"solver": "nesterov"}, 800.0, 100, 0.5),
        ({"learning_rate": "1/L"}, 3.0, 1, 1.33333),
        ({"learning_rate": "1/L"}, 0.0, 10, 1.0),
    ],
)
def test_the_step_size(options: dict[str, Any], eigenvalue: float, rows: int, expected: float) -> None:
    assert Params(**options).step(eigenvalue, rows) == expected


def test_the_step_does_not_show_the_last_bits_of_a_blas() -> None:
    steps = {Params().step(1234.5678 * (1 + error), 77) for error in np.linspace(-1e-12, 1e-12, 21)}
    assert len(steps) == 1
