"""The playground: its samplers against the Python ones, and its page in a browser.

Each difference that matters is printed: `pytest -m browser -s tests/site`.
"""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import torch

import diffusion_utilities as du

pytestmark = pytest.mark.browser
DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEDULE = du.NoiseSchedule.linear()
AB = SCHEDULE.ab.tolist()
# eta is for DDIM only
KNOBS = ("network", "seed", "steps", "guidance", "n", "sampler")
SMALL = {"n": 4, "steps": 4, "guidance": 1}


# ---- sampler.js, function by function ------------------------------------------------


@pytest.fixture(scope="module")
def sampler(browser, address):
    """Runs an expression of JavaScript; `js` is sampler.js there, and `it` the data."""
    page = browser.new_page()
    page.goto(f"{address}/playground/settings.json")

    def run(expression: str, it=None):
        return page.evaluate(
            "async (it) => { const js = await import('/playground/sampler.js');"
            f"return {expression}; }}",
            it,
        )

    yield run
    page.close()


@pytest.mark.parametrize("seed", [0, 1, 99, 2**31 + 5])
def test_the_noise_is_that_of_torch(sampler, seed):
    found = sampler(
        "(() => { const noise = new js.Noise(it);"
        "return [[...noise.draw(3072)], [...noise.draw(768)]]; })()",
        seed,
    )
    generator = torch.Generator().manual_seed(seed)
    for numbers in found:
        expected = torch.randn(len(numbers) // 768, 3, 16, 16, generator=generator)
        assert torch.allclose(torch.tensor(numbers), expected.flatten(), atol=1e-5)


def test_the_steps_are_those_of_python(sampler):
    counts = [1, 2, 3, 4, 7, 10, 20, 50, 137, 499, 500]
    found = sampler("it[1].map((n) => js.straightSteps(it[0], n))", [AB, counts])
    assert found == [du.straight_steps(SCHEDULE, n) for n in counts]


def test_captions_become_the_same_numbers(sampler):
    captions = du.sprite_captions()
    texts = ["", "A hero, with RED hair!", "a dragon's 2 eggs", "no-horns: blue  slime"]
    found = sampler(
        "it[0].map((text) => [...js.encode(text, it[1], it[2])])",
        [texts, captions.vocabulary(), captions.MAX_WORDS],
    )
    assert np.array_equal(found, captions.encode(texts))


def curved(x, t):
    """A stand-in for a network, which any language computes in the same way."""
    return 0.6 * x + t / 1000


WALK = """(async () => {
  const frames = [];
  const step = js.SAMPLERS[it.sampler](it.ab, it.eta);
  const predict = async (x, t) => x.map((value) => 0.6 * value + t / 1000);
  const source = new js.Noise(3);
  const trip = js.walk({ n: 1, ab: it.ab, steps: it.steps, step, source, predict });
  for await (const { t, x, picture } of trip) frames.push([t, [...x], [...picture]]);
  return frames;
})()"""


def python_step(sampler: str, eta: float):
    """The step of the helper that a name in the playground stands for."""
    if sampler == "2m":
        return du.SecondOrder(SCHEDULE)

    def step(x, t, t_prev, noise, z):
        if sampler == "ddpm":
            options = {"z": z, "t_prev": t_prev, "variance": "beta_tilde"}
            return du.denoise_add_noise(x, t, noise, SCHEDULE, **options)
        return du.denoise_ddim(x, t, t_prev, noise, SCHEDULE, eta=eta, z=z)

    return step


@pytest.mark.parametrize("sampler_name, eta", [("ddpm", 0), ("ddim", 0.7), ("2m", 0)])
@pytest.mark.parametrize("n", [1, 6, 20])
def test_a_walk_is_that_of_python(sampler, sampler_name, eta, n):
    steps = du.straight_steps(SCHEDULE, n)
    asked = {"ab": AB, "steps": steps, "sampler": sampler_name, "eta": eta}
    frames = sampler(WALK, asked)

    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 3, 16, 16, generator=generator)
    pictures = []
    expected = [x]
    step = python_step(sampler_name, eta)
    for t, t_prev in zip(steps[:-1], steps[1:]):
        z = torch.randn(1, 3, 16, 16, generator=generator)
        noise = curved(x, t)
        pictures.append(du.predict_x0(x, t, noise, SCHEDULE))
        x = step(x, t, t_prev, noise, z)
        expected.append(x)
    pictures.append(x)

    assert [t for t, _, _ in frames] == steps
    worst = 0.0
    for (_, found, guess), one, picture in zip(frames, expected, pictures):
        for here, there in ((found, one), (guess, picture)):
            difference = (torch.tensor(here) - there.flatten()).abs() / (
                1 + there.abs().max()
            )
            worst = max(worst, float(difference.max()))
    print(f"{sampler_name} in {n} steps: largest difference {worst:.1e}")
    assert worst < 1e-5


# ---- The page ------------------------------------------------------------------------


def opened(new_page, options=None, **knobs):
    """The first page of the book with these knobs in its address, once it has drawn."""
    page = new_page(f"index.html?{urlencode(knobs)}", **(options or {}))
    drawn(page, 1)
    return page


def drawn(page, request: int) -> None:
    """Wait until the playground has drawn for the request-th time."""
    page.wait_for_function(
        "(request) => document.querySelector('#playground').dataset.drawn >= request",
        arg=request,
    )


def redrawn(page, change) -> None:
    """Change something, and wait until all is drawn that was asked for."""
    before = page.evaluate("document.querySelector('#playground').dataset.drawn")
    change()
    drawn(page, int(before) + 1)
    page.wait_for_timeout(700)  # perhaps more was asked for
    page.wait_for_selector("#playground[aria-busy=false]")


def sprites(page) -> np.ndarray:
    """What was drawn: (n, 3, 16, 16) from -1 to 1."""
    numbers = page.evaluate("[...window.playground.frames().at(-1).x]")
    return np.array(numbers, np.float32).reshape(-1, 3, 16, 16)


def address_of(page) -> dict[str, str]:
    return {key: value[0] for key, value in parse_qs(urlsplit(page.url).query).items()}


def canvas(page, name: str = "guess") -> str:
    return page.evaluate(f"document.getElementById('{name}').toDataURL()")


def test_it_draws_what_draw_draws(new_page):
    """The same caption, seed and knobs: the same sprites as in Python."""
    caption = "a creature with yellow horns"
    page = opened(new_page, words=caption, n=4, seed=5, steps=10)
    expected = du.draw(caption, 4, seed=5, steps=10)
    found = du.to_pictures(torch.from_numpy(sprites(page)))
    assert np.array_equal(found, expected)
    assert not page.errors


@pytest.mark.parametrize("sampler_name, eta", [("ddim", 0.5), ("2m", 0)])
def test_each_sampler_draws_what_torch_draws(new_page, sampler_name, eta):
    """With weights and noise of torch, and the words as a caption."""
    knobs = {"words": "a red apple", "seed": 2, "sampler": sampler_name, "eta": eta}
    page = opened(new_page, **SMALL, **knobs)
    generator = torch.Generator().manual_seed(2)
    x_T = torch.randn(4, 3, 16, 16, generator=generator)
    words = torch.from_numpy(du.sprite_captions().encode(["a red apple"]))
    trip = du.walk(
        du.sprite_network(),
        SCHEDULE,
        x=x_T,
        steps=du.straight_steps(SCHEDULE, 4),
        step=python_step(sampler_name, eta),
        context=words.expand(4, -1),
        generator=generator,
    )
    expected = [x for _, x, _ in trip][-1]
    worst = np.abs(sprites(page) - expected.numpy()).max()
    print(f"{sampler_name} with the network: largest difference {worst:.1e}")
    assert worst < 0.01
    assert not page.errors


@pytest.mark.parametrize("guidance", [1, 3])
def test_the_student_draws_what_torch_draws(new_page, guidance):
    """In the steps that it practised, unless the address says another number."""
    knobs = {"network": "student", "words": "a ghost", "n": 4, "seed": 8}
    page = opened(new_page, guidance=guidance, **knobs)
    assert address_of(page)["steps"] == "4"
    encode = du.sprite_captions().encode
    asked, nothing = torch.from_numpy(encode(["a ghost", ""]))[:, None]
    student = du.sprite_network(du.WEIGHTS / "sprite_unet_student.pth")
    expected, _ = du.sample_ddpm(
        du.guided(student, guidance, nothing),
        SCHEDULE,
        shape=(4, 3, 16, 16),
        context=asked.expand(4, -1),
        steps=du.straight_steps(SCHEDULE, 4),
        generator=torch.Generator().manual_seed(8),
        variance="beta_tilde",
        keep=0,
    )
    worst = np.abs(sprites(page) - expected.numpy()).max()
    print(f"the student, guidance {guidance}: largest difference {worst:.1e}")
    assert worst < 0.01
    assert not page.locator("#python").is_visible()  # draw() has the strong network
    assert not page.errors


def test_a_network_brings_its_number_of_steps(new_page):
    page = opened(new_page, n=4, steps=9, guidance=1)
    assert address_of(page)["steps"] == "9"
    redrawn(page, lambda: page.select_option("#network", "student"))
    assert address_of(page)["steps"] == page.input_value("#steps") == "4"
    drawn_by_student = sprites(page)
    redrawn(page, lambda: page.select_option("#network", "strong"))
    assert address_of(page)["steps"] == "20"
    page.goto(page.url.replace("steps=20", "steps=4"))
    drawn(page, 1)
    assert not np.array_equal(sprites(page), drawn_by_student)


def test_the_page_with_both_networks_is_below_25_megabytes(new_page):
    """What a reader loads for it; nothing of it is loaded twice."""
    sizes = {}

    def note(response):
        sizes[response.url] = len(response.body())

    page = new_page("run.html", service_workers="block")
    page.on("response", note)
    page.goto(page.url.replace("run.html", f"index.html?{urlencode(SMALL)}"))
    drawn(page, 1)
    redrawn(page, lambda: page.select_option("#network", "student"))
    weight = sum(sizes.values())
    print(f"{weight / 1e6:.1f} MB with both networks")
    assert 20e6 < weight < 25e6
    assert not any("jspi" in url for url in sizes)


def test_the_page_says_how_much_it_loads(book):
    """In MB: the network, and what runs it on the processor and on the card."""
    text = (book / "index.html").read_text(encoding="utf8")
    playground = text.partition('id="playground"')[2].partition("</section>")[0]
    said = [int(number) for number in re.findall(r"(\d+) MB", playground)]
    processor = ("ort.wasm.*", "*-threaded.mjs", "*-threaded.wasm")
    sizes = []
    for patterns in (["strong.onnx"], processor, ["*jspi*"]):
        files = [file for name in patterns for file in (book / "playground").glob(name)]
        sizes.append(sum(file.stat().st_size for file in files) / 1e6)
    assert np.allclose(said, sizes, atol=0.5)


def test_every_knob_changes_the_sprites_and_the_address(new_page):
    page = opened(new_page, words="a hero", **SMALL)
    seen = [sprites(page)]
    changes = {
        "words": lambda: page.fill("#words", "a blue slime"),
        "seed": lambda: page.press("#seed", "ArrowRight"),
        "steps": lambda: page.press("#steps", "ArrowRight"),
        "guidance": lambda: page.press("#guidance", "ArrowRight"),
        "sampler": lambda: page.select_option("#sampler", "ddim"),
        "eta": lambda: page.press("#eta", "End"),
        "n": lambda: page.press("#n", "ArrowRight"),
    }
    for name, change in changes.items():
        before = address_of(page)
        redrawn(page, change)
        after = address_of(page)
        changed = {key for key in after if after[key] != before[key]}
        assert changed == {name}
        assert not any(np.array_equal(sprites(page), other) for other in seen)
        seen.append(sprites(page))
    assert not page.errors


def test_a_link_draws_the_same_sprites(new_page):
    clipboard = ["clipboard-read", "clipboard-write"]
    knobs = {"words": "cherries", "seed": 7, **SMALL, "sampler": "2m"}
    page = opened(new_page, {"permissions": clipboard}, **knobs)
    picture = canvas(page)
    page.click("#share")
    link = page.evaluate("navigator.clipboard.readText()")
    page.goto("about:blank")
    page.goto(link)
    drawn(page, 1)
    assert canvas(page) == picture
    assert page.input_value("#words") == "cherries"
    page.reload()
    drawn(page, 1)
    assert canvas(page) == picture
    assert not page.errors


def test_the_seed_is_dragged_with_a_mouse(new_page):
    page = opened(new_page, words="a hero", **SMALL)
    box = page.locator("#seed").bounding_box()
    middle = box["y"] + box["height"] / 2

    def drag():
        page.mouse.move(box["x"] + 8, middle)
        page.mouse.down()
        for share in (0.3, 0.5, 0.6):
            page.mouse.move(box["x"] + share * box["width"], middle)
        page.mouse.up()

    redrawn(page, drag)
    assert 40 < int(address_of(page)["seed"]) < 80
    assert not page.errors


def test_the_walk_can_be_looked_at_again(new_page):
    """From noise, where both pictures differ, to the end, where they are the same."""
    page = opened(new_page, words="a hero", **SMALL)
    end = canvas(page)
    assert canvas(page, "now") == end
    page.press("#walk", "Home")
    assert page.text_content("output[for=walk]") == "t = 500"
    assert canvas(page, "now") != canvas(page) != end
    assert "t = 500" in page.get_attribute("#now", "aria-label")
    page.press("#walk", "End")
    assert canvas(page) == end


def test_a_button_writes_the_words(new_page):
    page = opened(new_page, words="a hero", **SMALL)
    redrawn(page, lambda: page.get_by_role("button", name="food").click())
    assert page.input_value("#words") == "food"
    redrawn(page, lambda: page.get_by_role("button", name="another caption").click())
    assert page.input_value("#words") == address_of(page)["words"] != "food"


def test_words_that_it_has_never_read_are_named(new_page):
    page = opened(new_page, words="a Unicorn with red hair", **SMALL)
    assert page.text_content("#unknown").endswith(": unicorn")
    redrawn(page, lambda: page.fill("#words", "a hero with red hair"))
    assert page.text_content("#unknown") == ""


def test_nonsense_in_the_address_draws_all_the_same(new_page):
    nonsense = {"steps": "many", "sampler": "magic", "seed": "-5", "more": "<b>"}
    page = opened(new_page, n=4, network="constructor", **nonsense)
    assert sprites(page).shape == (4, 3, 16, 16)
    assert address_of(page)["sampler"] == "ddpm"
    assert address_of(page)["network"] == "strong"
    assert not page.errors


WATCH = """
window.looks = new Set();
new MutationObserver(() => {
  const canvas = document.getElementById("now");
  if (canvas) window.looks.add(canvas.getAttribute("aria-label"));
}).observe(document, { subtree: true, childList: true, attributes: true });
"""


@pytest.mark.parametrize("motion, looks", [("no-preference", 5), ("reduce", 1)])
def test_little_motion_shows_the_end_only(new_page, motion, looks):
    page = new_page("run.html", reduced_motion=motion)
    page.add_init_script(WATCH)
    page.goto(page.url.replace("run.html", f"index.html?{urlencode(SMALL)}"))
    drawn(page, 1)
    shown = [look for look in page.evaluate("[...window.looks]") if "t =" in look]
    assert len(shown) == looks


def test_by_keyboard_alone(new_page):
    """Every control is reached by the Tab key, in the order of the page."""
    page = opened(new_page, words="a hero", **SMALL)
    page.focus("#words")
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    knobs = [name for name in reached if name]
    assert knobs == ["another", "walk", *KNOBS, "share"]
    page.focus("#words")
    page.keyboard.press("Control+a")
    page.keyboard.type("a ghost")
    redrawn(page, lambda: page.keyboard.press("Enter"))
    assert address_of(page)["words"] == "a ghost"


def test_every_control_has_a_name(new_page):
    """As a screen reader says it."""
    page = opened(new_page, words="a hero", **SMALL)
    for name in ("seed", "steps", "guidance", "sprites", "eta", "the walk"):
        assert page.get_by_role("slider", name=name).count() == 1, name
    assert page.get_by_role("textbox", name="What shall it draw?").count() == 1
    for name in ("network", "sampler"):
        assert page.get_by_role("combobox", name=name).count() == 1
    assert page.get_by_role("img", name="4 sprites for: a hero").count() == 2


def test_on_a_phone_by_touch(new_page):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    page = opened(new_page, phone, words="a hero", **SMALL)
    redrawn(page, lambda: page.get_by_role("button", name="food").tap())
    assert page.input_value("#words") == "food"
    box = page.locator("#guess").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert box["width"] / 2 >= 48  # pixels of a sprite, of which two are in a row


def test_it_works_offline_after_the_first_visit_and_then_with_threads(new_page):
    page = opened(new_page, words="a hero", seed=3, **SMALL)
    picture = canvas(page)
    kept = "caches.open('book').then((kept) => kept.keys())"
    page.wait_for_function(
        f"{kept}.then((keys) => keys.some(({{ url }}) => url.includes('onnx?')))"
    )
    page.wait_for_function(
        f"{kept}.then((keys) => keys.some(({{ url }}) => url.includes('index.html')))"
    )
    page.context.set_offline(True)
    page.reload()
    drawn(page, 1)
    assert canvas(page) == picture
    assert page.evaluate("crossOriginIsolated")
    redrawn(page, lambda: page.press("#seed", "ArrowRight"))
    assert canvas(page) != picture


ANSWER = """async ([source, given]) => {
  const self = { addEventListener() {} };
  const kept = {
    put: async () => { throw new Error("no room"); },
    match: async () => undefined,
  };
  const caches = { open: async () => kept };
  const redirect = { type: "opaqueredirect", status: 0, headers: [], body: null };
  const response = given ? new Response("a page", { status: given }) : redirect;
  const load = new Function("self", "caches", "fetch", source + "; return answer;");
  const answer = load(self, caches, async () => response);
  const answered = await answer({ mode: "navigate" });
  return [answered.status, given ? await answered.text() : answered === redirect];
}"""


@pytest.mark.parametrize(
    "given, expected",
    [(200, [200, "a page"]), (206, [206, "a page"]), (0, [0, True])],
    ids=["the disk is full", "a part of a file", "a redirect"],
)
def test_what_cannot_be_kept_is_answered_all_the_same(browser, given, expected):
    page = browser.new_page()
    source = (DOCS / "offline-worker.js").read_text(encoding="utf8")
    assert page.evaluate(ANSWER, [source, given]) == expected
    page.close()


def test_a_network_that_did_not_load_can_be_asked_for_again(new_page):
    page = new_page("run.html", service_workers="block")
    page.route("**/student.onnx*", lambda route: route.abort())
    knobs = {"words": "a hero", **SMALL}
    page.goto(page.url.replace("run.html", f"index.html?{urlencode(knobs)}"))
    drawn(page, 1)
    page.select_option("#network", "student")
    page.wait_for_function(
        "document.querySelector('#status').textContent.startsWith('It could not')"
    )
    assert page.get_attribute("#playground", "aria-busy") == "false"
    page.unroute_all()
    redrawn(page, lambda: page.press("#seed", "ArrowRight"))
    assert sprites(page).shape == (4, 3, 16, 16)


def test_a_failed_drawing_is_no_longer_busy(new_page):
    page = opened(new_page, words="a hero", **SMALL)
    page.evaluate(
        "() => { Worker.prototype.postMessage = function ({ id }) {"
        "this.onmessage({ data: { id, error: 'no memory' } }); }; }"
    )
    page.click("#another")
    assert "no memory" in page.text_content("#status")
    assert page.get_attribute("#playground", "aria-busy") == "false"


# ---- The graphics card ---------------------------------------------------------------

CARD = """Object.defineProperty(Navigator.prototype, "gpu", { get: () => ({
  requestAdapter: async () => ({ info: { isFallbackAdapter: false } }) }) });"""
# In place of the runtime for it: WebAssembly, and then what a card does to the answer
IMITATION = """
import * as ort from "./ort.wasm.min.mjs";
export const { Tensor, env } = ort;
let calls = 0;
export const InferenceSession = { async create(file, { executionProviders }) {
  const [provider] = executionProviders;
  const options = { executionProviders: ["wasm"] };
  const session = await ort.InferenceSession.create(file, options);
  if (provider === "wasm") return session;
  return { async run(inputs) {
    calls += 1;
    const { noise } = await session.run(inputs);
    RUN;
    return { noise };
  } };
} };
"""


def with_card(new_page, run: str = "", adapter: str = CARD, **options):
    """The playground where there seems to be a graphics card, once it has drawn.

    page.loaded: the files that it asked for.
    """
    page = new_page("run.html", service_workers="block", **options)
    page.loaded = []
    page.on("request", lambda request: page.loaded.append(request.url.split("/")[-1]))
    page.add_init_script(adapter)
    runtime = IMITATION.replace("RUN", run)
    answer = {"body": runtime, "content_type": "text/javascript"}
    page.route("**/ort.jspi.min.mjs", lambda route: route.fulfill(**answer))
    knobs = urlencode({"words": "a hero", **SMALL})
    page.goto(page.url.replace("run.html", f"index.html?{knobs}"))
    drawn(page, 1)
    return page


def the_switch(page):
    return page.get_by_role("switch", name="Use the graphics card")


def is_loaded(page, runtime: str) -> bool:
    return f"ort.{runtime}.min.mjs" in page.loaded


def test_the_card_draws_once_the_reader_wants_it(new_page):
    """By keyboard; the browser remembers it, and a link does not say it."""
    page = with_card(new_page)
    without = sprites(page)
    the_switch(page).wait_for()
    assert not the_switch(page).is_checked()
    assert not is_loaded(page, "jspi")
    page.focus("#sampler")  # eta is for DDIM only
    page.keyboard.press("Tab")
    redrawn(page, lambda: page.keyboard.press("Space"))
    assert the_switch(page).is_checked()
    assert is_loaded(page, "jspi")
    assert page.text_content("#status").endswith("on the graphics card")
    assert np.abs(sprites(page) - without).max() < 1e-4
    assert set(address_of(page)) == {"words", "eta", *KNOBS}

    page.reload()
    drawn(page, 1)
    assert page.text_content("#status").endswith("on the graphics card")
    redrawn(page, lambda: the_switch(page).click())
    assert page.text_content("#status").endswith(" s")
    page.reload()
    drawn(page, 1)
    assert not the_switch(page).is_checked()
    assert page.text_content("#status").endswith(" s")
    assert not page.errors


@pytest.mark.parametrize(
    "run",
    [
        "noise.data[5] += 0.1",
        "noise.data[5] = NaN",
        "if (calls === 3) throw new Error('the device was lost')",
    ],
    ids=["wrong", "no number", "lost"],
)
def test_a_card_that_fails_is_left(new_page, run):
    page = with_card(new_page, run)
    leaves_the_card(page)


def test_without_its_runtime_the_card_is_left(new_page):
    page = with_card(new_page)
    page.unroute_all()
    page.route("**/ort.jspi.min.mjs", lambda route: route.abort())
    leaves_the_card(page)


def leaves_the_card(page) -> None:
    """Switched on, it soon is off again, and the sprites are drawn all the same."""
    without = sprites(page)
    the_switch(page).click()
    page.wait_for_function("document.querySelector('#card-failed').textContent")
    assert not the_switch(page).is_checked()
    page.wait_for_selector("#playground[aria-busy=false]")
    assert np.array_equal(sprites(page), without)
    assert page.text_content("#status").endswith(" s")
    assert page.evaluate("localStorage.playgroundCard") is None  # nor on the next visit


@pytest.mark.parametrize(
    "adapter",
    [
        "",
        CARD.replace("async () =>", "async () => null && "),
        CARD.replace("async () =>", "async () => nonsense && "),
        CARD.replace("false", "true"),
        f"{CARD} delete WebAssembly.Suspending",
    ],
    ids=["no WebGPU", "no adapter", "an error", "the processor", "no suspending"],
)
def test_without_a_card_there_is_no_switch(new_page, adapter):
    """Not even for a reader who has used one before."""
    page = with_card(new_page, adapter=f"localStorage.playgroundCard = 'on'; {adapter}")
    page.wait_for_timeout(500)
    assert the_switch(page).count() == 0
    assert not is_loaded(page, "jspi")
    assert is_loaded(page, "wasm")
    assert not page.errors


def test_webgpu_draws_what_webassembly_draws(page_with_webgpu, address):
    """From the same noise; and all that it has loaded is kept for offline."""
    page = page_with_webgpu
    knobs = {"words": "a ghost", "network": "student", "steps": 2, "guidance": 1}
    page.goto(f"{address}/index.html?{urlencode(knobs)}")
    drawn(page, 1)
    expected = sprites(page)
    times = [page.text_content("#status")]
    redrawn(page, lambda: the_switch(page).click())
    times.append(page.text_content("#status"))
    assert times[-1].endswith("on the graphics card")
    worst = np.abs(sprites(page) - expected).max()
    print(f"WebGPU: largest difference {worst:.1e}; {'; '.join(times)}")
    assert worst < 0.01
    files = ["ort.jspi.min.mjs", "threaded.jspi.mjs", "threaded.jspi.wasm"]
    page.wait_for_function(
        """async (files) => {
          const kept = await (await caches.open("book")).keys();
          return files.every((file) => kept.some(({ url }) => url.endsWith(file)));
        }""",
        arg=files,
    )


def test_it_asks_no_other_host(new_page):
    page = opened(new_page, words="a hero", **SMALL)
    assert len(page.hosts) == 1
    assert not page.errors
