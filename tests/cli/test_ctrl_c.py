"""A Ctrl-C that Python could not raise comes again."""

import subprocess
import sys

PROGRAM = """
import signal, time
from polyclinic.cli.ctrl_c import keep_ctrl_c
{keep}
class Ends:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(1000):
            pass
Ends()
try:
    time.sleep(2)
    print("lost")
except KeyboardInterrupt:
    print("kept")
"""


def run(keep: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_it_comes_again_and_nothing_is_printed_of_the_first() -> None:
    done = run("keep_ctrl_c()")
    assert (done.stdout, done.stderr) == ("kept\n", "")


def test_other_errors_that_cannot_be_raised_are_told_as_ever() -> None:
    done = run("keep_ctrl_c()\nclass Bad:\n    def __del__(self):\n        raise ValueError('what it is')\nBad()")
    assert done.stdout == "kept\n"
    assert "ValueError: what it is" in done.stderr
