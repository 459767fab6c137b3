"""The judges of lesson 17's clinic (they spoil it).

A diagnosis is compared with what weights/experiments/clinic.py stored of the patient.
"""

import base64
import difflib
import functools
import html
import io
import json

import numpy as np
from IPython.display import HTML
from PIL import Image

from diffusion_utilities import WEIGHTS
from exercises import Wrong, described, exercise

# What a patient may have, in alphabetical order
FAULTS = {
    "colours rescaled": "each channel of each picture was stretched to the full range "
    "before it was saved",
    "eval forgotten": "the network was left in train mode while it drew",
    "few pictures": "it was trained on a few pictures only, again and again",
    "loss squared": "`loss.backward(loss)`: the gradient was multiplied by the loss",
    "no average": "the learning rate stayed high to the end, "
    "and the last weights were sampled, not their average",
    "no noise added": "DDPM without the fresh noise of each step",
    "no root": "in training the noise was mixed in with 1 - alpha-bar, "
    "without its square root",
    "noise at the end": "the last step of the sampler added noise, too",
    "random shortcut": "the first block's shortcut was a new random convolution "
    "at every call",
    "rate too high": "the learning rate was a hundred times too high",
    "rate too low": "the learning rate was a hundred times too low",
    "shuffled labels": "the labels of the training pictures were dealt out at random",
    "stride wraps": "DDIM in strides that do not divide T: "
    "the last one goes to an index below 0",
    "t not divided": "the sampler told the network t instead of t / T",
}
IN_THE_SAMPLING = (
    "colours rescaled",
    "eval forgotten",
    "no noise added",
    "noise at the end",
    "stride wraps",
    "t not divided",
)

# The test on the bench that decides
DECIDES = {
    "eval forgotten": "other company",
    "few pictures": "nearest in training",
    "no noise added": "another sampler",
    "no root": "loss by step",
    "noise at the end": "minus the healthy",
    "rate too high": "loss by step",
    "shuffled labels": "another sampler",
    "stride wraps": "another sampler",
}


@functools.cache
def stored() -> dict:
    return json.loads((WEIGHTS / "clinic.json").read_text(encoding="utf8"))


@functools.cache
def sheets() -> dict[str, np.ndarray]:
    """The stored pictures, such as "no root: sheet" and "no root, seed 2: sheet"."""
    with np.load(WEIGHTS / "results" / "clinic.npz") as file:
        return dict(file)


def seeds_of(name: str) -> dict[int, dict]:
    """{seed: the training that a patient comes from}; "healthy" is a patient, too."""
    trainings = stored()["trainings"].values()
    return {row["run"]["seed"]: row for row in trainings if name in row["patients"]}


def samples_of(fault: str) -> np.ndarray:
    """Ten stored samples of seed 1, two of each class: (10, 16, 16, 3) uint8."""
    two_of_each = np.arange(25).reshape(5, 5)[:, :2].flatten()
    return sheets()[f"{fault}: sheet"][two_of_each]


def drawn_twice(fault: str) -> np.ndarray:
    """Ten samples, and what DDIM draws from the same starts: (20, 16, 16, 3) uint8."""
    trainings = stored()["trainings"].items()
    name = next(name for name, row in trainings if fault in row["patients"])
    its_own = sheets()[f"{fault}: sheet"][:10]
    return np.concatenate((its_own, sheets()[f"{name}: retest"][:10]))


def folded(summary: str, picture: Image.Image, title: str, caption: str) -> HTML:
    """A picture under its title, behind a summary to click on: it needs no kernel."""
    memory = io.BytesIO()
    picture.quantize(dither=Image.Dither.NONE).save(memory, "PNG", optimize=True)
    encoded = base64.b64encode(memory.getvalue()).decode()
    words = html.escape(f"{title}: {caption}")
    return HTML(
        f"<details><summary>{html.escape(summary)}</summary><p>{words}</p>"
        f'<img alt="{words}" src="data:image/png;base64,{encoded}"></details>'
    )


@functools.cache
def evidence(name: str) -> dict:
    """All numbers of one patient's first seed in one dictionary.

    `name` is the name of its fault, or "healthy".
    """
    trainings = stored()["trainings"].values()
    row = next(row for row in trainings if name in row["patients"])
    patient = row["patients"][name]
    numbers = {}
    for t, loss in zip(stored()["settings"]["graded"], row["graded"]):
        numbers[f"t = {t}"] = loss
    for measure, value in row["retest"].items():
        numbers[f"DDIM, {measure}"] = value
    numbers |= patient["report"]
    numbers |= patient
    for key in (
        "last twentieth",
        "fifth before it",
        "loss on training pictures",
        "losses",
        "run",
    ):
        numbers[key] = row[key]
    numbers["curve"] = [loss for _, loss in row["held out"]]
    numbers["held out"] = numbers["curve"][-1]
    return numbers


def times_healthy(me: dict, measure: str) -> float:
    """How many times the healthy network's number this patient's is."""
    return me[measure] / evidence("healthy")[measure]


# ---- What would have to be so if a claim were right ----------------------------------
#
# Each function yields pairs: whether it is not so, and the sentence that says it, with
# this patient's numbers. First the faults of sampling.


def company(me):
    """Eval forgotten."""
    difference = me["other company"]
    yield (
        difference < 0.005,
        "In train mode a sample depends on the others in its batch; here a start ends "
        f"at the same sprite in other company (difference {difference:.3f}).",
    )


def chance(me):
    """Random shortcut."""
    yield (
        me["again"] < 0.005,
        "A random shortcut gives another picture from the same start each time; drawn "
        f"again, this patient's pictures differ by {me['again']:.3f}.",
    )


def wrapped(me):
    """Stride wraps."""
    obeys = me["class as asked"]
    would = evidence("stride wraps")["class as asked"]
    yield (
        obeys > 1.4 * would,
        "The walk would end at the noisy end, at t = 489, with nothing to be seen but "
        f"noise, and {would:.1%} would pass for the class asked for; "
        f"here {obeys:.1%} do.",
    )


def few_kinds(me):
    """No noise added."""
    there = evidence("no noise added")
    healthy = evidence("healthy")["recall"]
    yield (
        me["recall"] > 0.5 * healthy,
        "Means alone fall into the few kinds near the middle and leave most real "
        f"sprites out: a recall near {there['recall']:.1%}; here it is "
        f"{me['recall']:.1%}, in the healthy {healthy:.1%}.",
    )
    obeys = me["class as asked"]
    would = there["class as asked"]
    yield (
        obeys < 0.7 * would,
        f"Means alone still draw sprites, and {would:.1%} of them have the class asked "
        f"for; here {obeys:.1%} have it.",
    )
    off = me["off-palette pixels"]
    would = there["off-palette pixels"]
    yield (
        off > 2 * would,
        f"Means alone keep to the colours of sprites ({would:.1%} of the pixels are "
        f"off the palette); here {off:.1%} are.",
    )


def grain(me):
    """Noise at the end."""
    healthy = evidence("healthy")["DDIM, FD"]
    words = (
        "Noise in the last step leaves a fine grain on the sprites of the same "
        "network, and nothing else"
    )
    yield (
        me["DDIM, FD"] != healthy,
        f"{words}; here the network itself draws otherwise, with DDIM at FD "
        f"{me['DDIM, FD']:.0f} instead of {healthy:.0f}.",
    )
    would = evidence("noise at the end")["FD"]
    yield (
        me["FD"] > 2 * would,
        f"{words} (it would have FD {would:.0f}); here the FD is {me['FD']:.0f}.",
    )


def undivided(me):
    """t not divided."""
    there = stored()["others"]["t not divided"]
    yield (
        me["full range"] < 0.9 * there["full range"],
        "Told t up to 500, the network draws nothing but noise in full colours: "
        f"{there['full range']:.1%} of all channels reach from 0 to 255; "
        f"here {me['full range']:.1%} do.",
    )
    yield (
        me["roughness"] < 0.8 * there["roughness"],
        "Told t up to 500, the network draws noise in full colours, a mean step of "
        f"{there['roughness']:.3f} from a pixel to the next; "
        f"here it is soft, {me['roughness']:.3f}.",
    )


def rescaled(me):
    """Colours rescaled."""
    yield (
        me["full range"] < 0.7,
        "After rescaling every channel of every picture reaches from 0 to 255, "
        f"except for flat ones; here {me['full range']:.1%} of the channels do.",
    )
    obeys = me["class as asked"]
    healthy = evidence("healthy")["class as asked"]
    yield (
        obeys < 0.5,
        "Noise reaches from 0 to 255, too; rescaling moves colours and no outlines, so "
        f"that one would still see a hero in the first row; here {obeys:.1%} have the "
        f"class asked for, of the healthy samples {healthy:.1%}.",
    )


# ---- Then the faults of training -----------------------------------------------------


def copies(me):
    """Few pictures."""
    there = evidence("few pictures")
    own = me["loss on training pictures"]
    gap = me["held out"] / own
    would = there["held out"] / there["loss on training pictures"]
    yield (
        gap < 0.6 * would,
        f"A network that has memorised 20 pictures is {would:.1f} times as wrong on "
        f"held-out ones; here the loss is {own:.3f} on its own and "
        f"{me['held out']:.3f} on held-out ones.",
    )


def disobedient(me):
    """Shuffled labels."""
    obeys = me["DDIM, class as asked"]
    would = evidence("shuffled labels")["DDIM, class as asked"]
    yield (
        obeys > 1.3 * would,
        "Labels dealt out at random leave little to obey, by any sampler "
        f"({would:.1%} would have the class asked for with DDIM); "
        f"here {obeys:.1%} have it.",
    )
    healthy = evidence("healthy")["DDIM, FD"]
    yield (
        me["DDIM, FD"] > 1.5 * healthy,
        "Wrong labels leave the sprites themselves nearly as good as the healthy ones; "
        f"here DDIM's FD is {me['DDIM, FD']:.0f} instead of {healthy:.0f}.",
    )


def too_low(me):
    """Rate too low."""
    start = me["curve"][0]
    furthest = max(me["curve"], key=lambda loss: abs(loss - start))
    yield (
        abs(furthest - start) > 0.005,
        "A rate too low leaves the network where it began, and its held-out loss near "
        f"{start:.3f}; here that goes to {furthest:.3f} on the way.",
    )


def too_high(me):
    """Rate too high."""
    healthy = evidence("healthy")
    yield (
        times_healthy(me, "last twentieth") < 1.5,
        "A rate too high destroys what the network knew and keeps the training loss "
        f"up; here it ends at {me['last twentieth']:.3f}, the healthy one at "
        f"{healthy['last twentieth']:.3f}.",
    )
    yield (
        times_healthy(me, "t = 400") < 1.5,
        "A rate too high spoils all steps t; here the loss at t = 400 is "
        f"{me['t = 400']:.3f}, the healthy one {healthy['t = 400']:.3f}.",
    )


def rootless(me):
    """No root."""
    healthy = evidence("healthy")
    yield (
        times_healthy(me, "t = 100") < 1.5,
        "Without the root the network has never seen the noise of the middle steps, "
        f"and its loss there is far too high; here it is {me['t = 100']:.3f} at "
        f"t = 100, in the healthy one {healthy['t = 100']:.3f}.",
    )
    times = times_healthy(me, "t = 400")
    yield (
        times > 1.7,
        "At t = 400 the root hardly matters (std 0.96 without it, 0.98 with it), so "
        f"the loss there would be nearly healthy; here it is {times:.1f} times as "
        "high.",
    )
    end = me["last twentieth"]
    healthy_end = healthy["last twentieth"]
    yield (
        end < healthy_end,
        "Noise without its root is weaker and harder to find, so the training loss "
        f"stays above the healthy one's; here it ends at {end:.3f}, the healthy one at "
        f"{healthy_end:.3f}.",
    )


def a_little_worse(me):
    """Loss squared."""
    obeys = me["DDIM, class as asked"]
    should = evidence("healthy")["DDIM, class as asked"]
    healed = times_healthy(me, "last twentieth") < 1.3
    yield (
        healed and obeys < should - 0.2,
        "Smaller steps do not make a network draw what was not asked for; with DDIM "
        f"{obeys:.1%} have the class asked for, and {should:.1%} in the healthy one.",
    )
    for t in (100, 400):
        times = times_healthy(me, f"t = {t}")
        yield (
            not 1.15 < times < 1.7,
            "It leaves the loss a little above the healthy one's, by about the same "
            "share at every step (lesson 3: 1.3 times at t = 100); "
            f"here it is {times:.1f} times the healthy one at t = {t}.",
        )


def raw(me):
    """No average."""
    times = times_healthy(me, "t = 100")
    yield (
        times > 1.5,
        "The average is a matter of the last polish: without it the loss by step is "
        f"nearly healthy; here it is {times:.1f} times the healthy one at t = 100.",
    )
    obeys = me["DDIM, class as asked"]
    should = evidence("healthy")["DDIM, class as asked"]
    yield (
        obeys < 0.7 * should,
        "Without the average the samples would be rougher, but still of the class "
        f"asked for; with DDIM {obeys:.1%} are, and {should:.1%} of the healthy ones.",
    )


TRUTH = {
    "colours rescaled": rescaled,
    "eval forgotten": company,
    "few pictures": copies,
    "loss squared": a_little_worse,
    "no average": raw,
    "no noise added": few_kinds,
    "no root": rootless,
    "noise at the end": grain,
    "random shortcut": chance,
    "rate too high": too_high,
    "rate too low": too_low,
    "shuffled labels": disobedient,
    "stride wraps": wrapped,
    "t not divided": undivided,
}


# ---- What is said of a right diagnosis: how it was made, what shows it, the cure -----


def about_no_root(me, healthy):
    off = me["off-palette pixels"]
    healthy_off = healthy["off-palette pixels"]
    return (
        "In training the noise was mixed in with 1 - alpha-bar: at t = 100 its std was "
        "0.19 instead of 0.44. With the right noise the held-out loss there is "
        f"{me['t = 100']:.3f} instead of {healthy['t = 100']:.3f}, and at t = 400 it "
        f"is {times_healthy(me, 't = 400'):.1f} times the healthy one. "
        f"By FD ({me['FD']:.0f}, healthy: {healthy['FD']:.0f}) and recall "
        f"({me['recall']:.1%}, {healthy['recall']:.1%}) the samples are even better, "
        f"by the pixels off the palette ({off:.1%}, {healthy_off:.1%}) worse: a score "
        "does not see every fault, and with one seed such differences may be chance. "
        "The cure is the root, and a test that measures the noise's std."
    )


def about_rate_too_high(me, healthy):
    return (
        f"The rate was {me['run']['rate']:g} instead of {healthy['run']['rate']:g}; "
        f"in a tenth of the steps the held-out loss went from {me['curve'][0]:.3f} to "
        f"{me['curve'][1]:.3f}, and the training ends at {me['last twentieth']:.3f} "
        f"instead of {healthy['last twentieth']:.3f}. "
        "The cure: divide by ten until it comes down."
    )


def about_few_pictures(me, healthy):
    own = "loss on training pictures"
    return (
        f"It was trained on 20 pictures: its loss on them is {me[own]:.3f} and on "
        f"held-out ones {me['held out']:.3f} (healthy: {healthy[own]:.3f} and "
        f"{healthy['held out']:.3f}), and the recall of its samples is "
        f"{me['recall']:.1%} (healthy: {healthy['recall']:.1%}). "
        "The cure: more pictures, or an end before the held-out loss rises."
    )


def about_noise_at_the_end(me, healthy):
    return (
        "The last step added noise, too, with a std of 0.056 on the scale from -1 to "
        "1. The sprites are the healthy ones under a fine grain, and "
        f"{me['full range']:.1%} of the channels reach from 0 to 255 (healthy: "
        f"{healthy['full range']:.1%}). The FD does not see it ({me['FD']:.0f} and "
        f"{healthy['FD']:.0f}). "
        "The cure: the mean alone is the answer of the last step."
    )


def about_shuffled_labels(me, healthy):
    return (
        f"Its labels were dealt out at random: {me['class as asked']:.1%} of its "
        f"samples have the class asked for (healthy: {healthy['class as asked']:.1%}), "
        f"while the held-out loss is {me['held out']:.3f} instead of "
        f"{healthy['held out']:.3f}. "
        "The cure: look at pictures beside their labels before you train."
    )


def about_stride_wraps(me, healthy):
    hard = stored()["others"]["t not divided"]["roughness"]
    return (
        "DDIM was asked for 30 steps and made 32 in strides of 16, the last of them to "
        "index -12, which is t = 489. Of its pixels "
        f"{me['off-palette pixels']:.1%} are off the palette instead of "
        f"{healthy['off-palette pixels']:.1%}. The noise is soft, with a mean step of "
        f"{me['roughness']:.3f} from a pixel to the next; hard noise, of a t that is "
        f"not divided, has {hard:.3f}. With the helper's DDIM its network has FD "
        f"{me['DDIM, FD']:.0f}, like the healthy one. "
        "The cure is `sampling_steps`, for any number of steps."
    )


def about_eval_forgotten(me, healthy):
    return (
        "The network drew in train mode, so batch norm took the statistics of the "
        f"batch: in other company a start ends {me['other company']:.3f} (RMS) away, "
        f"in eval mode {healthy['other company']:.3f}. Its FD is {me['FD']:.0f}, with "
        f"DDIM in eval mode {me['DDIM, FD']:.0f}. "
        "The cure: `model.eval()`, in the sampler and not in the caller."
    )


def about_no_noise_added(me, healthy):
    return (
        "DDPM took the mean of every step and left the noise out: it draws few kinds "
        f"over and over, with a recall of {me['recall']:.1%} (healthy: "
        f"{healthy['recall']:.1%}); DDIM, which is made for no noise, has "
        f"{me['DDIM, recall']:.1%} with the same network. "
        "The cure: sigma z at every step but the last."
    )


ABOUT = {
    "no root": about_no_root,
    "rate too high": about_rate_too_high,
    "few pictures": about_few_pictures,
    "noise at the end": about_noise_at_the_end,
    "shuffled labels": about_shuffled_labels,
    "stride wraps": about_stride_wraps,
    "eval forgotten": about_eval_forgotten,
    "no noise added": about_no_noise_added,
}


def how() -> dict[str, str]:
    """What is said of a right diagnosis of each fault."""
    healthy = evidence("healthy")
    return {fault: tell(evidence(fault), healthy) for fault, tell in ABOUT.items()}


# A patient's most obvious suspicion, where that is wrong
INVITED = {
    ("no noise added", "few pictures"): "A good guess: the same few pictures are the "
    "mark of memorising, and nearly everybody says so here. But few kinds have two "
    "causes. ",
}

# ---- The judge -----------------------------------------------------------------------


def judge(fault: str, attempt: object) -> None:
    """Raise Wrong unless the attempt is the name of the fault."""
    may = f"one of {', '.join(FAULTS)}"
    if not isinstance(attempt, str):
        raise Wrong(
            f"This is {described(attempt)}; expected a name as a string: {may}."
        )
    if attempt not in FAULTS:
        near = difflib.get_close_matches(attempt.strip().lower(), FAULTS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise Wrong(f"{attempt!r:.60} is not on the list{hint} It may be {may}.")
    if attempt != fault:
        invited = INVITED.get((fault, attempt), "")
        raise Wrong(invited + against(attempt, evidence(fault)))


def against(claim: str, me: dict) -> str:
    """The first thing that is not so, and would have to be if the claim were right."""
    for fails, sentence in TRUTH[claim](me):
        if fails:
            return sentence
    healthy = evidence("healthy")
    # a patient that is ill in the sampling has the healthy network
    trained_wrong = me["DDIM, FD"] != healthy["DDIM, FD"]
    if (claim in IN_THE_SAMPLING) != trained_wrong:
        raise LookupError(f"no evidence against {claim}")
    verdict = "the training was sound"
    if trained_wrong:
        verdict = "it is not the healthy network, so look at the training"
    return (
        "Drawn by another sampler, the course's DDIM, the same network has "
        f"FD {me['DDIM, FD']:.0f} (healthy: {healthy['DDIM, FD']:.0f}) and "
        f"{me['DDIM, class as asked']:.1%} with the class asked for "
        f"({healthy['DDIM, class as asked']:.1%}): {verdict}."
    )


for _fault, _number in stored()["numbers"].items():
    exercise(f"17.{_number}", how()[_fault])(functools.partial(judge, _fault))
