"""Federated datasets: one folder a dataset, always the same files, all with the contract of `federated_dataset`.

Importing this package imports no dataset and no torch; ``polyclinic.datasets.fed_heart_disease`` does.
"""
