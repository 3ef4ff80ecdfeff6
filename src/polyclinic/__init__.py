"""Polyclinic: train one model over many hospitals while every patient record stays where it is."""

__version__ = "0.1.0"
