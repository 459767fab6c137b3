"""Wrong answers to lesson 2's exercises that learners and published notebooks give: (exercise, their code, what the check must say)."""

WRONG = [
    ("2.1", "def my_alpha_bar(b):\n    return (1 - b[1:]).cumprod(0)", "put the 1"),
    ("2.1", "def my_alpha_bar(b):\n    return (1 - b).cumsum(0)", "product"),
    ("2.1", "def my_alpha_bar(b):\n    return 1 - b", "alpha-bar multiplies"),
    # ANCHORS.md, fault 1: no root on the noise
    ("2.2", "def my_perturb_input(x, t, noise, schedule):\n    ab = schedule.ab[t].float().view(-1, 1, 1, 1)\n"
     "    return ab.sqrt() * x + (1 - ab) * noise",
     r"at t = 50: your noise has std 0\.05\d+, expected 0\.23\d*: is the square root"),
    ("2.2", "def my_perturb_input(x, t, noise, schedule):\n    ab = schedule.ab[t].float().view(-1, 1, 1, 1)\n"
     "    return ab * x + (1 - ab).sqrt() * noise",
     "square root on the picture"),
    ("2.2", "def my_perturb_input(x, t, noise, schedule):\n    ab = schedule.ab[t].float()\n"
     "    return ab.sqrt() * x + (1 - ab).sqrt() * noise", "stopped with RuntimeError"),
    ("2.3", "def my_cosine_betas(T, s=0.008, largest=0.999):\n    t = torch.arange(T + 1, dtype=torch.float64)\n"
     "    return torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2",
     "that is alpha-bar"),
    ("2.4", "def my_rescaled_betas(schedule, target):\n    r = schedule.ab.sqrt()\n"
     "    return target + (r - r[-1]) * (r[1] - target) / (r[1] - r[-1])", "before it became betas"),
    ("2.5", "def my_posterior(t, schedule):\n    c0, ct, variance = posterior(t, schedule)\n    return c0, ct, variance ** 0.5", "variance"),
]  # fmt: skip
