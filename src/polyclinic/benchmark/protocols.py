"""What a protocol is, and the protocols by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from typing import Protocol as Interface

from polyclinic.benchmark.cells import Cell, Outcome
from polyclinic.benchmark.flamby import FlambyProtocol
from polyclinic.benchmark.sound import SoundProtocol
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, nearest

Settings = dict[str, Any]


class Protocol(Interface):
    """How a cell is run, and what decides its result."""

    name: ClassVar[str]
    summary: ClassVar[str]

    def options(self, fixes: Sequence[str]) -> dict[str, Any]:
        """The options of the dataset's class."""

    def strategies(self, dataset: str, fixes: Sequence[str] = ()) -> dict[str, Settings]:
        """The strategies, each with its hyper-parameters for this dataset; ConfigError if it has none."""

    def baseline(self, dataset: str) -> Settings:
        """The hyper-parameters of pooled and local training."""

    def configuration(
        self, dataset: FederatedDataset, fixes: Sequence[str], num_updates: int | None, rounds: int | None
    ) -> dict[str, Any]:
        """What else decides a result; ConfigError for an unknown fix."""

    def known_settings(self, strategy: str) -> list[str]:
        """The names of a strategy's hyper-parameters."""

    def run(self, cell: Cell) -> Outcome:
        """Runs one cell; raises `Diverged`, or a PolyclinicError if it could not be run."""


PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (SoundProtocol(), FlambyProtocol())}


def get_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}", to_do=nearest(name, PROTOCOLS))
    return PROTOCOLS[name]
