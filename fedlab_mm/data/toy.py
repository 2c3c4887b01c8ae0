"""A small world whose truth is known: drawn covers, worded titles, and users who were told what to rely on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from fedlab_mm.data.preparation import Preparation, Raw
from fedlab_mm.data.prepare import prepare
from fedlab_mm.encoding import OfflineEncoder
from fedlab_mm.records import Dataset
from fedlab_mm.registry import register

N_USERS, N_ITEMS, N_INTERACTIONS = 300, 500, 8000
N_KINDS = 8  # visual styles, topics and collaborative clusters: eight of each
SIDE = 64
START, YEAR = 1_704_067_200, 366 * 86_400  # 2024, in seconds

SIGNALS = ("image", "text", "collaborative")

# What makes a visual style: no part alone tells two styles apart for sure, the three together do.
PALETTES = {
    "ember": ((92, 24, 20), (232, 110, 48), (250, 204, 110)),
    "moss": ((22, 58, 38), (92, 158, 88), (206, 226, 150)),
    "tide": ((16, 40, 86), (66, 132, 206), (176, 222, 244)),
    "dusk": ((54, 22, 78), (156, 88, 182), (244, 178, 214)),
}
STYLES = (
    ("ember", "circle", "dots"),
    ("ember", "bar", "stripes"),
    ("moss", "square", "checks"),
    ("moss", "triangle", "dots"),
    ("tide", "circle", "stripes"),
    ("tide", "triangle", "checks"),
    ("dusk", "square", "stripes"),
    ("dusk", "bar", "checks"),
)

TOPICS = {
    "space": "orbit comet lander nebula rocket signal eclipse gravity station crater meteor launch",
    "kitchen": "bread oven pepper broth noodle butter ginger skillet dough feast spice harvest",
    "football": "striker keeper penalty league derby stadium corner captain transfer whistle header final",
    "haunting": "ghost cellar whisper attic candle grave shadow mirror curse hollow seance fog",
    "garden": "rose trellis seedling orchard compost tulip hedge meadow blossom pruning bulb fern",
    "music": "chord tempo vinyl encore guitar chorus bassline opera rhythm studio ballad drummer",
    "empire": "throne legion treaty siege dynasty crown conquest senate fortress rebel banner exile",
    "hearts": "letter wedding promise summer stranger reunion waltz proposal longing secret kiss farewell",
}
PLAIN_WORDS = "quiet golden last hidden broken first distant little endless silver lost brave"

SHARE_LEANING = 0.45  # users who rely on one signal alone, a third of them on each
SHARPNESS = 5.0  # how strongly a user's taste decides, against chance
SHARE_NEW = 0.12  # items that appear only in the last weeks of the year: the source of cold targets


@register("dataset", "toy")
class Toy:
    """300 users, 500 items, 8,000 interactions over a year, generated in a second, the same everywhere for a seed.

    An item has a visual style, a topic and a collaborative cluster, independent of each other: its cover shows the
    first, its title the second, and the third shows only in who interacts with it. A user likes two kinds of each, and
    relies on the three signals by `truth["reliance_US"]`: 45 % of users on one of them alone, the others on a mixture.
    At each of a user's times, the next item is drawn among those already released and not yet taken, with

        log-odds = 5 · Σ_s reliance_us · taste_us[kind of i in s] + popularity_i.

    `truth` keeps: style_I, topic_I, cluster_I; reliance_US (columns image, text, collaborative; rows sum to one);
    leans_U (0, 1, 2 for a user who relies on that signal alone, −1 for a mixture); taste_USK; popularity_I.
    """

    @staticmethod
    def load(root: str | Path | None = None, seed: int = 0, **options: Any) -> Dataset:
        """Generate it; `root` has no effect, for nothing is read."""
        how = Preparation(encoder="offline").but(**options)
        rng = np.random.default_rng([seed, 2024])
        kinds_SI = rng.integers(0, N_KINDS, (3, N_ITEMS))
        truth = _plant_users(rng) | {
            "style_I": kinds_SI[0],
            "topic_I": kinds_SI[1],
            "cluster_I": kinds_SI[2],
            "popularity_I": np.round(rng.normal(0, 0.5, N_ITEMS), 6),
        }
        log = _interact(rng, kinds_SI, truth)
        covers = np.stack([_draw_cover(rng, style) for style in kinds_SI[0]])
        titles = [_word_title(rng, topic) for topic in kinds_SI[1]]
        items = pd.DataFrame(
            {
                "item": np.arange(N_ITEMS),
                "title": titles,
                "style": kinds_SI[0],
                "topic": [list(TOPICS)[t] for t in kinds_SI[1]],
                "cluster": kinds_SI[2],
            }
        )
        encoder = OfflineEncoder()
        features = {"image": encoder.encode_images(list(covers)), "text": encoder.encode_texts(titles)}
        about = {"source": "generated", "encoder": "offline"}
        return prepare("toy", Raw(log, items, features=features, encode=(), covers=covers, truth=truth), how, about)


def _plant_users(rng: np.random.Generator) -> dict[str, np.ndarray]:
    leans_U = np.full(N_USERS, -1)
    n_leaning = round(SHARE_LEANING * N_USERS)
    leans_U[:n_leaning] = np.arange(n_leaning) % 3
    leans_U = rng.permutation(leans_U)
    mixture_US = np.round(rng.dirichlet([1.5, 1.5, 1.5], N_USERS), 6)
    reliance_US = np.where(leans_U[:, None] < 0, mixture_US, np.eye(3)[leans_U])
    liked_USK = rng.random((N_USERS, 3, N_KINDS)).argsort(axis=2) < 2
    taste_USK = np.round(liked_USK + rng.normal(0, 0.1, liked_USK.shape), 6)
    return {"leans_U": leans_U, "reliance_US": reliance_US, "taste_USK": taste_USK}


def _interact(rng: np.random.Generator, kinds_SI: np.ndarray, truth: dict[str, np.ndarray]) -> pd.DataFrame:
    # Activity has a long tail, as in real logs: six interactions at least, the rest shared out by log-normal weights.
    weights_U = rng.lognormal(0, 0.8, N_USERS)
    spare = N_INTERACTIONS - 6 * N_USERS
    extra_U = np.floor(spare * weights_U / weights_U.sum()).astype(int)
    extra_U[: spare - extra_U.sum()] += 1

    release_I = np.zeros(N_ITEMS)
    new = rng.permutation(N_ITEMS)[: round(SHARE_NEW * N_ITEMS)]
    release_I[new] = rng.uniform(0.95, 1, len(new))

    users, items, times = [], [], []
    for u in range(N_USERS):
        appeal_SI = np.stack([truth["taste_USK"][u, s][kinds_SI[s]] for s in range(3)])
        # Summed by hand, in one order everywhere, and rounded: a last bit must not decide what a user takes.
        r = truth["reliance_US"][u]
        appeal_I = r[0] * appeal_SI[0] + r[1] * appeal_SI[1] + r[2] * appeal_SI[2]
        log_odds_I = np.round(SHARPNESS * appeal_I + truth["popularity_I"], 9)
        n = 6 + extra_U[u]
        when = np.sort(rng.uniform(rng.uniform(0, 0.6), 1, n))
        chance_NI = np.round(rng.gumbel(size=(n, N_ITEMS)), 9)
        taken = np.zeros(N_ITEMS, dtype=bool)
        for t, chance_I in zip(when, chance_NI, strict=True):
            open_I = (release_I <= t) & ~taken
            item = int(np.argmax(np.where(open_I, log_odds_I + chance_I, -np.inf)))
            taken[item] = True
            users.append(u)
            items.append(item)
            times.append(START + int(t * YEAR))
    return pd.DataFrame({"user": users, "item": items, "timestamp": times})


def _word_title(rng: np.random.Generator, topic: int) -> str:
    """A plain word, then three of the topic's; one title in five borrows a word from another topic."""
    vocabulary = [words.split() for words in TOPICS.values()]
    plain = PLAIN_WORDS.split()
    words = [plain[rng.integers(len(plain))]]
    words += [vocabulary[topic][i] for i in rng.choice(12, 3, replace=False)]
    if rng.random() < 0.2:
        words[3] = vocabulary[rng.integers(N_KINDS)][rng.integers(12)]
    return " ".join(word.capitalize() for word in words)


def _draw_cover(rng: np.random.Generator, style: int) -> np.ndarray:
    """uint8 [64, 64, 3]: the palette's dark ground with a texture, and some shapes in its light tones."""
    palette, shape, texture = STYLES[style]
    jitter = rng.integers(-18, 19, 3)
    dark, middle, light = (tuple(int(c) for c in np.clip(np.array(p) + jitter, 0, 255)) for p in PALETTES[palette])
    image = Image.new("RGB", (SIDE, SIDE), dark)
    draw = ImageDraw.Draw(image)
    step = int(rng.integers(8, 12))
    for x in range(0, SIDE, step):
        if texture == "stripes":
            draw.line([(x, 0), (x, SIDE)], fill=middle, width=2)
            continue
        for y in range(0, SIDE, step):
            if texture == "dots":
                draw.ellipse([x + 2, y + 2, x + 5, y + 5], fill=middle)
            elif (x // step + y // step) % 2:
                draw.rectangle([x, y, x + step - 1, y + step - 1], fill=middle)
    for n in range(int(rng.integers(2, 5))):
        size = int(rng.integers(14, 27))
        x, y = (int(v) for v in rng.integers(0, SIDE - size, 2))
        fill = light if n % 2 == 0 else middle
        box = [x, y, x + size, y + size]
        if shape == "circle":
            draw.ellipse(box, fill=fill, outline=dark)
        elif shape == "square":
            draw.rectangle(box, fill=fill, outline=dark)
        elif shape == "triangle":
            draw.polygon([(x, y + size), (x + size // 2, y), (x + size, y + size)], fill=fill, outline=dark)
        else:
            draw.rectangle([0, y, SIDE, y + size // 3], fill=fill, outline=dark)
    return np.asarray(image)
