"""A policy in words: what is stricter and looser, and what may be a slip of the pen."""

import pytest

from polyclinic.node.policy import Policy
from polyclinic.node.policy_words import doubts, in_words


def kinds(text):
    return {(s.about, s.text): s.kind for s in in_words(Policy.parse(text.encode())) if s.kind != "usual"}


def test_the_defaults_are_usual_and_all_said():
    assert kinds("") == {}
    assert len(in_words(Policy())) == 17


@pytest.mark.parametrize(
    ("text", "about", "said", "kind"),
    [
        ("approval = 'off'", "plans", "run without the data manager's yes", "looser"),
        ("sandbox = 'limits-only'", "sandbox", "only limits: plans may read files and reach the network", "looser"),
        ("only_listed_researchers = true", "researchers", "only those listed here: nobody", "stricter"),
        ("[researchers.ada]\ndatasets = ['a']", "researcher ada", "datasets: a; purposes: any", "stricter"),
        (
            "[hours]\nranges = ['19:00-07:00']",
            "hours of the day",
            "work may begin at 19:00-07:00 (local time)",
            "stricter",
        ),
        ("[leaves]\nparameters = false", "models", "stay here", "stricter"),
        ("[leaves]\ntracebacks = true", "tracebacks", "leave", "looser"),
        ("[leaves]\nmetrics = []", "metrics", "that leave: none", "stricter"),
        ("[leaves]\nreply_mb = 1.5", "a reply", "has at most 1.5 MB", "stricter"),
        ("[every_dataset]\nminimum_training_rows = 9", "every dataset", "9 rows at least in an update", "looser"),
        ("[every_dataset]\nminimum_test_rows = 11", "every dataset", "11 rows at least for metrics", "stricter"),
        ("[every_dataset]\npurposes = ['x']", "every dataset", "purposes: x", "changed"),
        ("[every_dataset]\nmaximum_rounds = 3", "every dataset", "rounds for each researcher: at most 3", "stricter"),
        (
            "[datasets.a]\nmaximum_hours = 2.5",
            "dataset a",
            "hours of work for each researcher: at most 2.5",
            "stricter",
        ),
        (
            "[datasets.a]\nprivacy = 'differential-privacy'",
            "dataset a",
            "privacy demanded: differential-privacy, which no plan offers yet",
            "stricter",
        ),
    ],
    ids=range(15),
)
def test_what_differs_is_said(text, about, said, kind):
    assert kinds(text) == {(about, said): kind}


def test_a_dataset_is_compared_with_every_dataset():
    text = "[every_dataset]\nminimum_training_rows = 50\n[datasets.a]\nminimum_training_rows = 20\n"
    assert kinds(text) == {
        ("every dataset", "50 rows at least in an update"): "stricter",
        ("dataset a", "20 rows at least in an update"): "looser",
    }


def test_limits_of_a_plan_are_said():
    ((about, said),) = kinds("[resources]\nmemory_gb = 4.0\ncpu_cores = 2.0")
    assert about == "a plan at work"
    assert said.startswith("4 GB of memory, 2 cores, 64 processes")


def test_names_that_nothing_here_has_are_doubted():
    policy = Policy.parse(b"[datasets.hart]\n[researchers.adda]\ndatasets = ['lungs', 'heart']\n")
    assert doubts(policy, ["heart", "lung"], ["ada"]) == [
        "no dataset 'hart' is registered here (did you mean 'heart'?)",
        "no dataset 'lungs' is registered here (did you mean 'lung'?)",
        "researcher 'adda' is not trusted here (did you mean 'ada'?)",
    ]
    assert doubts(Policy(), [], []) == []
    assert len(doubts(policy, ["heart", "lung"], None)) == 2  # where all are trusted, each name may be somebody's
