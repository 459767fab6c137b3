"""Answers to lesson 15's exercises.

WRONG: answers that learners and published notebooks give, each as (exercise, code,
what the check must say, a regular expression). RIGHT: correct answers that differ from
the solution, as (exercise, code).
"""

NOISED = """
def my_add_noise(scheduler, x, noise, t):
    ab = ({ab}).view(-1, 1, 1, 1)
    return {line}
"""

LOOP = """
def my_loop(model, scheduler, x, n):
    {told}
    for k in {ks}:
        noise = model(x, {time})
        {line}
    return {answer}
"""

GUIDED = """
def my_guided_step(unet, scheduler, latents, k, words, w):
    both = unet({doubled}, k, words).sample
    {halves} = both.chunk(2)
    noise = {noise}
    return {answer}
"""

EULER = """
def my_euler_loop(model, scheduler, x, n):
    scheduler.set_timesteps(n)
    x = {first}
    for k in scheduler.timesteps:
        {inside}
        seen = {seen}
        noise = model(seen, {time})
        x = scheduler.step(noise, k, {start}){result}
    return x
"""

EULER_TOO_EARLY = """
def my_euler_loop(model, scheduler, x, n):
    x = x * scheduler.init_noise_sigma
    scheduler.set_timesteps(n)
    for k in scheduler.timesteps:
        noise = model(scheduler.scale_model_input(x, k), (k + 1) / 500)
        x = scheduler.step(noise, k, x).prev_sample
    return x
"""

OURS = "torch.cat((torch.ones(1), scheduler.alphas_cumprod))[t]"


def add_noise(answer):
    return f"def my_add_noise(scheduler, x, noise, t):\n    return {answer}"


def noised(ab, line="ab.sqrt() * x + (1 - ab).sqrt() * noise"):
    return NOISED.format(ab=ab, line=line)


def loop(
    told="scheduler.set_timesteps(n)",
    ks="scheduler.timesteps",
    time="(k + 1) / 500",
    line="x = scheduler.step(noise, k, x).prev_sample",
    answer="x",
):
    return LOOP.format(told=told, ks=ks, time=time, line=line, answer=answer)


def euler(
    first="x * scheduler.init_noise_sigma",
    inside="pass",
    seen="scheduler.scale_model_input(x, k)",
    time="(k + 1) / 500",
    start="x",
    result=".prev_sample",
):
    return EULER.format(
        first=first, inside=inside, seen=seen, time=time, start=start, result=result
    )


def velocity(answer):
    return f"def my_velocity(x, noise, sigma):\n    return {answer}"


def guided(
    noise="plain + w * (wished - plain)",
    halves="plain, wished",
    answer="scheduler.step(noise, k, latents).prev_sample",
    doubled="latents.repeat(2, 1, 1, 1)",
):
    return GUIDED.format(noise=noise, halves=halves, answer=answer, doubled=doubled)


WRONG = [
    # the index, 0 or 1
    (
        "15.1",
        noised("scheduler.alphas_cumprod[t]"),
        (
            r"at t = 1: your noise has std 0\.018, expected 0\.011\d*: the table was "
            "read at k = t"
        ),
    ),
    ("15.1", add_noise("scheduler.add_noise(x, noise, t)"), "their k is our t - 1"),
    (
        "15.1",
        add_noise("scheduler.add_noise(x, noise, t - 1)"),
        r"at t = 0: your noise has std 1\.01, expected 0: .*\*last\* entry",
    ),
    (
        "15.1",
        noised("scheduler.alphas_cumprod[(t - 1).clamp(min=0)]"),
        "that is k = 0, the first step of noise",
    ),
    # a fault of published code: no root on the noise
    (
        "15.1",
        noised(OURS, "ab.sqrt() * x + (1 - ab) * noise"),
        "is the square root on the noise missing",
    ),
    (
        "15.1",
        noised(OURS, "ab * x + (1 - ab).sqrt() * noise"),
        (
            r"at t = 100: your picture of ones became 0\.81, .*square root on the "
            "picture"
        ),
    ),
    ("15.2", loop(time="k / 500"), "with DDIM in 10 steps: .*our t is k . 1"),
    ("15.2", loop(time="k"), "ValueError.*expected t / T"),
    ("15.2", loop(told="pass"), "set_timesteps"),
    ("15.2", loop(told="scheduler.set_timesteps(500)"), "took 500 steps, not the 10"),
    ("15.2", loop(ks="reversed(scheduler.timesteps)"), "taken upwards"),
    ("15.2", loop(line="x = scheduler.step(noise, k, x)"), "Your code stopped"),
    ("15.2", loop(line="y = scheduler.step(noise, k, x)", answer="y"), "prev_sample"),
    (
        "15.2",
        loop(line="x = scheduler.step(noise, k, x).pred_original_sample"),
        "from the implied clean picture",
    ),
    (
        "15.2",
        loop(line="y = scheduler.step(noise, k, x).prev_sample", answer="y"),
        "started from the first noise",
    ),
    (
        "15.2",
        loop(line="return scheduler.step(noise, k, x).prev_sample"),
        "after the first step",
    ),
    ("15.2", loop(line="scheduler.step(noise, k, x)"), "x as it was given"),
    (
        "15.2",
        loop(line="x = scheduler.step(x, k, noise).prev_sample"),
        "takes the noise first",
    ),
    (
        "15.3",
        'my_guess = "index"',
        r"moves a sprite by 0\.0[01]\d .*another of the six by nothing\.",
    ),
    ("15.3", 'my_guess = "clip_sample"', "expected one of the six names"),
    (
        "15.4",
        euler(first="x"),
        r"with Euler, trailing, in 10 steps: .*first noise has std 1",
    ),
    ("15.4", euler(seen="x"), "the network saw x as it is"),
    ("15.4", euler(first="x", seen="x"), "exercise 15.2's loop"),
    ("15.4", euler(start="seen"), "went on from the scaled x"),
    ("15.4", EULER_TOO_EARLY, r"leading, in 7 steps: .*read before `set_timesteps`"),
    (
        "15.4",
        euler(first="x", inside="x = x * scheduler.init_noise_sigma"),
        "the \\*first\\* noise",
    ),
    ("15.4", euler(first="x / scheduler.init_noise_sigma"), "do not divide"),
    ("15.4", euler(time="k / 500"), "our t is k . 1"),
    ("15.4", euler(result=""), "Your code stopped"),
    ("15.5", velocity("(x - sigma * noise) / (1 - sigma) - noise"), "sign is wrong"),
    ("15.5", velocity("(x - sigma * noise) / (1 - sigma)"), "that is the picture"),
    ("15.5", velocity("noise - x"), "x is not the picture"),
    ("15.5", velocity("noise - (x - sigma * noise)"), "is the division missing"),
    (
        "15.5",
        velocity("noise - (x - (1 - sigma) * noise) / sigma"),
        "shares are exchanged",
    ),
    ("15.5", velocity("noise - (x - sigma * noise) / sigma"), "division by sigma"),
    (
        "15.5",
        velocity("noise - (x - sigma**0.5 * noise) / (1 - sigma) ** 0.5"),
        "there are no roots",
    ),
    (
        "15.6",
        guided("wished + w * (wished - plain)"),
        r"at k = 980 with w = 7\.5: .*the weight 1 \+ w",
    ),
    ("15.6", guided(halves="wished, plain"), "halves are exchanged"),
    ("15.6", guided("plain"), "ignores the wish"),
    ("15.6", guided("wished"), "without guidance"),
    ("15.6", guided("w * (wished - plain)"), "without a caption is missing"),
    ("15.6", guided(answer="noise"), "has not taken its step"),
    ("15.6", guided(answer="scheduler.step(noise, k, latents)"), "prev_sample"),
    (
        "15.6",
        guided(answer="scheduler.step(noise, k, latents).pred_original_sample"),
        "implied clean picture",
    ),
    ("15.6", guided(doubled="latents"), "1 latents came with 2 captions"),
]


RIGHT = [
    (
        "15.1",
        noised(
            "torch.where(t > 0, scheduler.alphas_cumprod[t - 1], torch.tensor(1.0))"
        ),
    ),
    ("15.2", loop(time="torch.full((len(x),), (k + 1) / 500)")),
    (
        "15.2",
        loop(time="(int(k) + 1) / 500", line="x = scheduler.step(noise, k, x)[0]"),
    ),
    ("15.3", "my_guess = ' Clipping'"),
    ("15.3", "my_guess = np.array('clipping')"),
    ("15.4", euler(seen="scheduler.scale_model_input(sample=x, timestep=k)")),
    ("15.4", euler(first="x * float(scheduler.init_noise_sigma)")),
    ("15.5", velocity("(noise - x) / (1 - sigma)")),
    ("15.6", guided("(1 - w) * plain + w * wished")),
    ("15.6", guided(doubled="torch.cat((latents, latents))")),
]
