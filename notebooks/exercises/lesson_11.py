"""The judges of lesson 11's clinic (they spoil it): a diagnosis is held against what weights/clinic.py stored of the patient."""

import difflib
import functools
import json

from diffusion_utilities import WEIGHTS
from exercises import Wrong, exercise

FAULTS = {  # what a patient may have, in the order of the alphabet
    "colours rescaled": "each channel of each picture was stretched to the full range before it was saved",
    "eval forgotten": "the network was left in train mode while it drew",
    "few pictures": "it was trained on a few pictures only, again and again",
    "loss squared": "`loss.backward(loss)`: the gradient was multiplied by the loss",
    "no average": "the learning rate stayed high to the end, and the last weights were sampled, not their average",
    "no noise added": "DDPM without the fresh noise of each step",
    "no root": "in training the noise was mixed in with 1 - alpha-bar, without its square root",
    "noise at the end": "the last step of the sampler added noise, too",
    "random shortcut": "the first block's shortcut was a new random convolution at every call",
    "rate too high": "the learning rate was a hundred times too high",
    "rate too low": "the learning rate was a hundred times too low",
    "shuffled labels": "the labels of the training pictures were dealt out at random",
    "stride wraps": "DDIM in strides that do not divide T: the last one goes to an index below 0",
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


@functools.cache
def stored() -> dict:
    return json.loads((WEIGHTS / "clinic.json").read_text(encoding="utf8"))


@functools.cache
def evidence(name: str) -> dict:
    """All the numbers of one patient, by the name of its fault or "healthy", flat."""
    row = next(row for row in stored()["trainings"].values() if name in row["patients"])
    numbers = {
        **{
            f"t = {t}": loss
            for t, loss in zip(stored()["settings"]["graded"], row["graded"])
        },
        **{f"DDIM, {measure}": value for measure, value in row["retest"].items()},
        **row["patients"][name]["report"],
        **row["patients"][name],
    }
    keys = (
        "last twentieth",
        "fifth before it",
        "loss on training pictures",
        "losses",
        "run",
    )
    return (
        numbers
        | {key: row[key] for key in keys}
        | {
            "curve": [loss for _, loss in row["held out"]],
            "held out": row["held out"][-1][1],
        }
    )


# What would have to be so if a claim were right: each yields (whether it is not so, the sentence that says it, with this patient's numbers)


def company(me):
    words = "In train mode a sample depends on the others in its batch; here a start ends at the same sprite in other company"
    yield (
        me["other company"] < 0.005,
        f"{words} (difference {me['other company']:.3f}).",
    )


def chance(me):
    words = "A random shortcut gives another picture from the same start each time; drawn again, this patient's pictures"
    yield me["again"] < 0.005, f"{words} differ by {me['again']:.3f}."


def wrapped(me):
    there = evidence("stride wraps")
    words = "The walk would end at the noisy end, at t = 489, with nothing to be seen but noise"
    words += f", and {there['class as asked']:.1%} would pass for the class asked for"
    yield (
        me["class as asked"] > 1.4 * there["class as asked"],
        f"{words}; here {me['class as asked']:.1%} do.",
    )


def few_kinds(me):
    there, sound = evidence("no noise added")["recall"], evidence("healthy")["recall"]
    words = f"Means alone fall into the few kinds near the middle and leave most real sprites out: a recall near {there:.1%}"
    yield (
        me["recall"] > 0.5 * sound,
        f"{words}; here it is {me['recall']:.1%}, in the healthy {sound:.1%}.",
    )
    there = evidence("no noise added")["class as asked"]
    words = f"Means alone still draw sprites, and {there:.1%} of them have the class asked for"
    yield (
        me["class as asked"] < 0.7 * there,
        f"{words}; here {me['class as asked']:.1%} have it.",
    )
    there = evidence("no noise added")["off-palette pixels"]
    words = f"Means alone keep to the colours of sprites ({there:.1%} of the pixels are off the palette)"
    yield (
        me["off-palette pixels"] > 2 * there,
        f"{words}; here {me['off-palette pixels']:.1%} are.",
    )


def grain(me):
    there, sound = evidence("noise at the end"), evidence("healthy")
    words = "Noise in the last step leaves a fine grain on the sprites of the same network, and nothing else"
    ill = me["DDIM, FD"] != sound["DDIM, FD"]
    yield (
        ill,
        f"{words}; here the network itself draws otherwise, with DDIM at FD {me['DDIM, FD']:.0f} instead of {sound['DDIM, FD']:.0f}.",
    )
    words += f" (it would have FD {there['FD']:.0f})"
    yield me["FD"] > 2 * there["FD"], f"{words}; here the FD is {me['FD']:.0f}."


def undivided(me):
    there = stored()["others"]["t not divided"]
    words = f"Told t up to 500, the network draws nothing but noise in full colours: {there['full range']:.1%} of all channels reach from 0 to 255"
    yield (
        me["full range"] < 0.9 * there["full range"],
        f"{words}; here {me['full range']:.1%} do.",
    )
    words = f"Told t up to 500, the network draws noise in full colours, a mean step of {there['roughness']:.3f} from a pixel to the next"
    yield (
        me["roughness"] < 0.8 * there["roughness"],
        f"{words}; here it is soft, {me['roughness']:.3f}.",
    )


def rescaled(me):
    words = "After rescaling every channel of every picture reaches from 0 to 255, but for flat ones"
    yield (
        me["full range"] < 0.7,
        f"{words}; here {me['full range']:.1%} of the channels do.",
    )
    words = "Noise reaches from 0 to 255, too; rescaling moves colours and no outlines, so that one would still see a hero in the first row"
    sound = evidence("healthy")["class as asked"]
    yield (
        me["class as asked"] < 0.5,
        f"{words}; here {me['class as asked']:.1%} have the class asked for, of the healthy samples {sound:.1%}.",
    )


def copies(me):
    there = evidence("few pictures")
    gap, would = (
        some["held out"] / some["loss on training pictures"] for some in (me, there)
    )
    words = (
        f"Who knows 20 pictures by heart is {would:.1f} times as wrong on held-out ones"
    )
    own = f"{me['loss on training pictures']:.3f} on its own and {me['held out']:.3f} on held-out ones"
    yield gap < 0.6 * would, f"{words}; here the loss is {own}."


def disobedient(me):
    there, sound = evidence("shuffled labels"), evidence("healthy")
    words = "Labels dealt out at random leave little to obey, by any sampler"
    obeys, would = me["DDIM, class as asked"], there["DDIM, class as asked"]
    yield (
        obeys > 1.3 * would,
        f"{words} ({would:.1%} would have the class asked for with DDIM); here {obeys:.1%} have it.",
    )
    words = (
        "Wrong labels leave the sprites themselves nearly as good as the healthy ones"
    )
    yield (
        me["DDIM, FD"] > 1.5 * sound["DDIM, FD"],
        f"{words}; here DDIM's FD is {me['DDIM, FD']:.0f} instead of {sound['DDIM, FD']:.0f}.",
    )


def too_low(me):
    start, furthest = (
        me["curve"][0],
        max(me["curve"], key=lambda loss: abs(loss - me["curve"][0])),
    )
    words = f"A rate too low leaves the network where it began, and its held-out loss near {start:.3f}"
    yield (
        abs(furthest - start) > 0.005,
        f"{words}; here that goes to {furthest:.3f} on the way.",
    )


def too_high(me):
    sound, last = evidence("healthy"), me["last twentieth"]
    words = (
        "A rate too high destroys what the network knew and keeps the training loss up"
    )
    yield (
        last < 1.5 * sound["last twentieth"],
        f"{words}; here it ends at {last:.3f}, the healthy one at {sound['last twentieth']:.3f}.",
    )
    words = "A rate too high spoils all steps t"
    yield (
        me["t = 400"] < 1.5 * sound["t = 400"],
        f"{words}; here the loss at t = 400 is {me['t = 400']:.3f}, the healthy one {sound['t = 400']:.3f}.",
    )


def rootless(me):
    sound = evidence("healthy")
    words = "Without the root the network has never seen the noise of the middle steps, and its loss there is far too high"
    yield (
        me["t = 100"] < 1.5 * sound["t = 100"],
        f"{words}; here it is {me['t = 100']:.3f} at t = 100, in the healthy one {sound['t = 100']:.3f}.",
    )
    words = "At t = 400 the root hardly matters (std 0.96 without it, 0.98 with it), so the loss there would be nearly healthy"
    yield (
        me["t = 400"] > 1.7 * sound["t = 400"],
        f"{words}; here it is {me['t = 400'] / sound['t = 400']:.1f} times as high.",
    )
    words = "Noise without its root is weaker and harder to find, so the training loss stays above the healthy one's"
    ends = me["last twentieth"], sound["last twentieth"]
    yield (
        ends[0] < ends[1],
        f"{words}; here it ends at {ends[0]:.3f}, the healthy one at {ends[1]:.3f}.",
    )


def a_little_worse(me):
    sound = evidence("healthy")
    words = "Smaller steps do not make a network draw what was not asked for"
    obeys, healed = (
        me["DDIM, class as asked"],
        me["last twentieth"] < 1.3 * sound["last twentieth"],
    )
    should = sound["DDIM, class as asked"]
    yield (
        healed and obeys < should - 0.2,
        f"{words}; with DDIM {obeys:.1%} have the class asked for, and {should:.1%} in the healthy one.",
    )
    words = "It leaves the loss a little above the healthy one's, by about the same share at every step (lesson 3: 1.3 times at t = 100)"
    for t in (100, 400):
        times = me[f"t = {t}"] / sound[f"t = {t}"]
        yield (
            not 1.15 < times < 1.7,
            f"{words}; here it is {times:.1f} times the healthy one at t = {t}.",
        )


def raw(me):
    sound = evidence("healthy")
    words = "The average is a matter of the last polish: without it the loss by step is nearly healthy"
    times = me["t = 100"] / sound["t = 100"]
    yield (
        times > 1.5,
        f"{words}; here it is {times:.1f} times the healthy one at t = 100.",
    )
    words = "Without the average the samples would be rougher, but still of the class asked for"
    obeys, should = me["DDIM, class as asked"], sound["DDIM, class as asked"]
    yield (
        obeys < 0.7 * should,
        f"{words}; with DDIM {obeys:.1%} are, and {should:.1%} of the healthy ones.",
    )


TRUTH = {  # of a claim: what would have to be so, and is not
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


def how() -> dict[str, str]:
    """What is said of a right diagnosis: how the patient was made, what shows it, and the cure."""
    sound, root, high, few = (
        evidence(name)
        for name in ("healthy", "no root", "rate too high", "few pictures")
    )
    labels, stride, mode, means = (
        evidence(name)
        for name in (
            "shuffled labels",
            "stride wraps",
            "eval forgotten",
            "no noise added",
        )
    )
    times, off = (
        root["t = 400"] / sound["t = 400"],
        [some["off-palette pixels"] for some in (root, sound)],
    )
    late, hard = evidence("noise at the end"), stored()["others"]["t not divided"]
    return {
        "no root": "In training the noise was mixed in with 1 - alpha-bar: at t = 100 its std was 0.19 instead of 0.44. With the right noise the "
        f"held-out loss there is {root['t = 100']:.3f} instead of {sound['t = 100']:.3f}, and at t = 400 it is {times:.1f} "
        f"times the healthy one. By FD ({root['FD']:.0f}, healthy: {sound['FD']:.0f}) and recall ({root['recall']:.1%}, {sound['recall']:.1%}) the "
        f"samples are even better, by the pixels off the palette ({off[0]:.1%}, {off[1]:.1%}) worse: a score "
        "does not see every fault, and with one seed such differences may be chance. The cure is the root, and a test that measures the noise's std.",
        "rate too high": f"The rate was {high['run']['rate']:g} instead of {sound['run']['rate']:g}; in a tenth of the steps the held-out loss went "
        f"from {high['curve'][0]:.3f} to {high['curve'][1]:.3f}, and the training ends at {high['last twentieth']:.3f} instead of "
        f"{sound['last twentieth']:.3f}. The cure: divide by ten until it comes down.",
        "few pictures": f"It was trained on 20 pictures: its loss on them is {few['loss on training pictures']:.3f} and on held-out ones "
        f"{few['held out']:.3f} (healthy: {sound['loss on training pictures']:.3f} and {sound['held out']:.3f}), and the recall of its samples is "
        f"{few['recall']:.1%} (healthy: {sound['recall']:.1%}). The cure: more pictures, or an end before the held-out loss rises.",
        "noise at the end": "The last step added noise, too, with a std of 0.056 on the scale from -1 to 1. The sprites are the healthy ones under a "
        f"fine grain, and {late['full range']:.1%} of the channels reach from 0 to 255 (healthy: {sound['full range']:.1%}). The FD does not see it "
        f"({late['FD']:.0f} and {sound['FD']:.0f}). The cure: the mean alone is the answer of the last step.",
        "shuffled labels": f"Its labels were dealt out at random: {labels['class as asked']:.1%} of its samples have the class asked for (healthy: "
        f"{sound['class as asked']:.1%}), while the held-out loss is {labels['held out']:.3f} instead of {sound['held out']:.3f}. The cure: look at "
        "pictures beside their labels before you train.",
        "stride wraps": "DDIM was asked for 30 steps and made 32 in strides of 16, the last of them to index -12, which is t = 489. Of its "
        f"pixels {stride['off-palette pixels']:.1%} are off the palette instead of {sound['off-palette pixels']:.1%}. The noise is soft, with a mean "
        f"step of {stride['roughness']:.3f} from a pixel to the next; hard noise, of a t that is not divided, has {hard['roughness']:.3f}. With the "
        f"helper's DDIM its network has FD {stride['DDIM, FD']:.0f}, like the healthy one. The cure is `sampling_steps`, for any number of steps.",
        "eval forgotten": "The network drew in train mode, so batch norm took the statistics of the batch: in other company a start ends "
        f"{mode['other company']:.3f} (RMS) away, in eval mode {sound['other company']:.3f}. Its FD is {mode['FD']:.0f}, with DDIM in eval mode "
        f"{mode['DDIM, FD']:.0f}. The cure: `model.eval()`, in the sampler and not in the caller.",
        "no noise added": "DDPM took the mean of every step and left the noise out: it draws few kinds over and over, with a recall of "
        f"{means['recall']:.1%} (healthy: {sound['recall']:.1%}); DDIM, which is made for no noise, has {means['DDIM, recall']:.1%} with the same "
        "network. The cure: sigma z at every step but the last.",
    }


def judge(fault: str, attempt: object) -> None:
    """Raise Wrong unless the attempt is the name of the fault."""
    may = f"one of {', '.join(FAULTS)}"
    if not isinstance(attempt, str):
        raise Wrong(
            f"This is {type(attempt).__name__} {attempt!r:.60}; expected a name as a string: {may}."
        )
    if attempt not in FAULTS:
        near = difflib.get_close_matches(attempt.strip().lower(), FAULTS, 1)
        raise Wrong(
            f"{attempt!r:.60} is not on the list{f'; did you mean {near[0]!r}' if near else ''}? It may be {may}."
        )
    if attempt != fault:
        raise Wrong(against(attempt, evidence(fault)))


def against(claim: str, me: dict) -> str:
    """The first thing that would have to be so, if the claim were right, and is not."""
    sound, fitting = (
        evidence("healthy"),
        [sentence for fails, sentence in TRUTH[claim](me) if fails],
    )
    its_own = (
        me["DDIM, FD"] != sound["DDIM, FD"]
    )  # whoever is ill in the sampling has the healthy network
    if (claim in IN_THE_SAMPLING) == its_own:
        obeys = f"{me['DDIM, class as asked']:.1%} with the class asked for ({sound['DDIM, class as asked']:.1%})"
        drawn = (
            f"FD {me['DDIM, FD']:.0f} (healthy: {sound['DDIM, FD']:.0f}) and {obeys}"
        )
        which = (
            "it is not the healthy network, so look at the training"
            if its_own
            else "the training was sound"
        )
        fitting.append(
            f"Drawn by another sampler, the course's DDIM, the same network has {drawn}: {which}."
        )
    if not fitting:
        raise LookupError(f"no evidence against {claim}")
    return fitting[0]


for _fault, _number in stored()["numbers"].items():
    exercise(f"11.{_number}", how()[_fault])(functools.partial(judge, _fault))
