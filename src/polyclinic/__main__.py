"""``python -m polyclinic``: the command line."""

from polyclinic.cli import main

main()
