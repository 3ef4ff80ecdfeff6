"""Hyper-parameters of the published benchmark: FLamby's ``config_*.json``.

They were chosen on the pooled test data. ``lr`` is the clients' learning rate of plain SGD; the rest are arguments of
the aggregators here. Ogier du Terrail et al., FLamby, NeurIPS 2022 (Datasets and Benchmarks), arXiv:2210.04620.
"""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]

_TUNED = {"tau": 1e-8, "beta1": 0.9, "beta2": 0.999}
# Three datasets give no tau, and fall silently to the default of the class.
_DEFAULT = {"tau": 1e-3, "beta1": 0.9, "beta2": 0.999}


def _dataset(
    average: float,
    prox: tuple[float, float],
    scaffold: tuple[float, float],
    cyclic: float,
    adam: tuple[float, float],
    yogi: tuple[float, float],
    adagrad: tuple[float, float],
    moments: Settings,
) -> dict[str, Settings]:
    return {
        "FedAverage": {"lr": average},
        "FedProx": {"lr": prox[0], "mu": prox[1]},
        "Scaffold": {"lr": scaffold[0], "server_lr": scaffold[1]},
        "Cyclic": {"lr": cyclic},
        "FedAdam": {"lr": adam[0], "server_lr": adam[1], **moments},
        "FedYogi": {"lr": yogi[0], "server_lr": yogi[1], **moments},
        # Its rule has no beta2.
        "FedAdagrad": {"lr": adagrad[0], "server_lr": adagrad[1], "tau": moments["tau"], "beta1": moments["beta1"]},
    }


FLAMBY: dict[str, dict[str, Settings]] = {
    "fed_camelyon16": _dataset(
        0.3162278,
        (0.3162278, 0.01),
        (0.1, 3.162278),
        0.01,
        (0.001, 3.162278),
        (0.003162278, 1.0),
        (0.01, 0.003162278),
        _DEFAULT,
    ),
    "fed_lidc_idri": _dataset(
        0.001, (0.001, 0.01), (0.031623, 1.0), 0.031623, (0.316228, 0.01), (0.1, 0.001), (0.1, 0.1), _DEFAULT
    ),
    "fed_ixi": _dataset(0.001, (0.001, 0.1), (0.001, 1.0), 1e-5, (1e-4, 0.1), (1e-4, 0.1), (1e-4, 0.1), _TUNED),
    "fed_tcga_brca": _dataset(0.1, (0.1, 0.1), (0.01, 1.0), 0.01, (0.01, 0.1), (0.01, 0.1), (0.01, 1.0), _TUNED),
    "fed_kits19": _dataset(0.03, (0.1, 0.001), (0.1, 1.0), 0.3, (0.1, 0.01), (0.1, 0.01), (0.1, 0.1), _TUNED),
    "fed_isic2019": _dataset(
        0.01,
        (0.01, 0.001),
        (0.01, 1.0),
        0.0031622776601683,
        (0.01, 0.0031622776601683),
        (0.01, 0.0031622776601683),
        (0.01, 0.0316227766016837),
        _DEFAULT,
    ),
    "fed_heart_disease": _dataset(
        0.001, (0.001, 0.01), (0.001, 1.0), 0.01, (0.01, 0.01), (0.003162, 0.01), (0.003162, 0.316228), _TUNED
    ),
}
