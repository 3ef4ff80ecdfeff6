from polyclinic.datasets.federated_dataset import FederatedDataset, known_datasets
from polyclinic.datasets.licenses import TERMS, terms


def test_every_dataset_of_ours_says_what_its_licence_asks():
    assert {FederatedDataset.load(name).card.license for name in known_datasets()} == set(TERMS)


def test_what_may_be_sold_is_told_from_what_may_not():
    assert "also a commercial one" in terms("CC BY-SA 3.0")
    assert "not for commercial purposes" in terms("CC BY-NC-SA 4.0")


def test_a_licence_that_is_not_known_has_to_be_read():
    assert terms("Our own, version 2") == "its terms are at its address only"
