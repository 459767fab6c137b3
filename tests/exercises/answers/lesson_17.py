"""Wrong diagnoses of lesson 17's patients.

WRONG: each as (exercise, code, what the check must say against it, a regular
expression). Which exercise has which fault is read from the stored results, so that it
is not written here.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CLINIC = json.loads((ROOT / "weights" / "clinic.json").read_text(encoding="utf8"))

# the fault that a patient has, the claim, and what the check says
CLAIMS = [
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
]

WRONG = []
for fault, claim, words in CLAIMS:
    number = f"17.{CLINIC['numbers'][fault]}"
    WRONG.append((number, f'my_diagnosis = "{claim}"', words))
