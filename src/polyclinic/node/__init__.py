"""The program at one data holder."""
