"""Wrong answers to lesson 5's exercises that learners and published notebooks give: (exercise, their code, what the check must say)."""

WRONG = []
