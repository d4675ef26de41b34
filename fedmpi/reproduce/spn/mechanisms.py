"""What SPN is compared with: ways to defend, at several settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mechanism:
    """One line of a PPC: a way to defend, at several settings."""

    name: str
    train: tuple[str, ...]
    """Options of fedmpi.spn."""
    attack: tuple[str, ...]
    """Options of fedmpi.attacks."""
    setting: str
    """The option that is varied."""
    values: tuple[float, ...]
    adversary: str = "dlg"


def mechanisms(
    alphas: tuple[float, ...],
    noises: tuple[float, ...],
    sparse_noises: tuple[float, ...] | None = None,
    known_alphas: tuple[float, ...] | None = None,
) -> tuple[Mechanism, ...]:
    """DP, PPDL-0.05, PPDL-0.3 and SPN, and SPN against who knows of it.

    Parameters
    ----------
    alphas, noises : tuple of float
        α₂ of SPN, σ of DP.
    sparse_noises, known_alphas : tuple of float, optional
        Those of PPDL, and of SPN against who knows of it. Default: the same.
    """
    secret = ("--method", "spn"), ("--defence", "spn"), "--alpha2"
    noise = "--noise-std"
    return (
        Mechanism("DP", ("--method", "dp"), ("--defence", "dp"), noise, noises),
        *(
            Mechanism(
                f"PPDL-{theta}",
                ("--method", "ppdl", "--share-fraction", theta),
                ("--defence", "ppdl", "--share-fraction", theta),
                noise,
                noises if sparse_noises is None else sparse_noises,
            )
            for theta in ("0.05", "0.3")
        ),
        Mechanism("SPN", *secret, alphas),
        Mechanism(
            "SPN, secret-head attack",
            *secret,
            alphas if known_alphas is None else known_alphas,
            adversary="secret-head",
        ),
    )
