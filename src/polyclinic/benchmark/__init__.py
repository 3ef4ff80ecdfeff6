"""Comparing federated algorithms on federated datasets: protocols, runs, reports."""
