"""The protocols by name."""

from __future__ import annotations

from polyclinic.benchmark.flamby import FlambyProtocol

PROTOCOLS = {protocol.name: protocol for protocol in (FlambyProtocol(),)}
