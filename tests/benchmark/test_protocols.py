import pytest

from polyclinic.benchmark.protocols import PROTOCOLS, get_protocol
from polyclinic.errors import ConfigError


@pytest.mark.parametrize("name", ["flamby", "polyclinic"])
def test_protocols_by_name(name):
    protocol = get_protocol(name)
    assert protocol.name == name
    assert protocol.summary
    assert "FedAverage" in protocol.strategies("fed_heart_disease")


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_strategy_has_the_settings_that_it_comes_with(name):
    protocol = PROTOCOLS[name]
    for strategy, settings in protocol.strategies("fed_heart_disease").items():
        assert set(settings) <= set(protocol.known_settings(strategy)), strategy


def test_an_unknown_protocol():
    with pytest.raises(
        ConfigError, match=r"there is no protocol 'policlinic'\n  What to do: did you mean 'polyclinic'"
    ):
        get_protocol("policlinic")
