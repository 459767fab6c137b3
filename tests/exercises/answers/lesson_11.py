"""Wrong diagnoses of lesson 11's patients: (exercise, the learner's code, what the check must say against it)."""

import json
from pathlib import Path

CLINIC = json.loads(
    (Path(__file__).resolve().parents[2] / "weights" / "clinic.json").read_text(
        encoding="utf8"
    )
)
NUMBER = {
    fault: f"11.{number}" for fault, number in CLINIC["numbers"].items()
}  # so that no patient's fault is written down here
WRONG = [
    (NUMBER[fault], f'my_diagnosis = "{claim}"', words)
    for fault, claim, words in (
        ("no root", "rate too high", r"loss at t = 400 is 0\.\d+, the healthy one"),
        ("no root", "shuffled labels", "have it|the sprites themselves"),
        ("rate too high", "no root", "At t = 400 the root hardly matters"),
        ("rate too high", "rate too low", "leaves the network where it began"),
        ("few pictures", "shuffled labels", "have it"),
        ("few pictures", "no root", "never seen the noise|training loss stays above"),
        ("shuffled labels", "few pictures", "on held-out ones"),
        ("shuffled labels", "eval forgotten", "in other company"),
        ("stride wraps", "noise at the end", "a fine grain"),
        ("stride wraps", "t not divided", "it is soft"),
        ("stride wraps", "colours rescaled", "Noise reaches from 0 to 255, too"),
        ("stride wraps", "rate too high", "keeps the training loss up"),
        ("eval forgotten", "colours rescaled", "from 0 to 255"),
        ("eval forgotten", "random shortcut", "from the same start each time"),
        ("no noise added", "few pictures", "on held-out ones"),
        ("no noise added", "no roote", "did you mean 'no root'"),
        ("noise at the end", "no average", "the training was sound"),
        ("noise at the end", "stride wraps", "nothing to be seen but noise"),
    )
]
