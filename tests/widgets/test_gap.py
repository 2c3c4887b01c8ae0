"""The gap explorer, moved by hand."""

import dataclasses
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import fedlab_mm as fl
from fedlab_mm.widgets import gap, gap_explorer


@pytest.fixture
def signals(toy):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(toy.n_items, 4)) for name in ("id", "image", "text")}


@pytest.fixture
def positions(signals):
    return {name: z[:, :2] for name, z in signals.items()}


def svg_of(drawn):
    text = drawn.value
    svg = ET.fromstring(text[text.index('<svg role="img"') : text.rindex("</svg>") + len("</svg>")])
    return svg, [title.text for title in svg.iter("title")]


def test_every_point_has_a_name_and_an_item_is_marked(toy, signals, positions):
    live = gap_explorer(signals, toy, positions)
    colour, drawn, item, told = live.box.children
    assert colour.options == ("signal", "style", "topic", "cluster", "popularity")
    item.value = 7
    svg, names = svg_of(drawn)
    assert len(names) == 3 * toy.n_items
    title, held = toy.items["title"][7], toy.popularity_I[7]
    assert names[toy.n_items + 7] == f"image of item 7: {title} ({held} users)"
    assert svg.get("role") == "img" and svg.get("aria-label").endswith("coloured by signal; item 7 is marked")
    assert [text.text for text in svg.iter("text")] == ["id", "image", "text"]
    rings = [c for c in svg.iter("circle") if c.get("fill") == "none"]
    dot = [c for c in svg.iter("circle") if c.find("title") is not None][7]
    assert (rings[0].get("cx"), rings[0].get("cy")) == (dot.get("cx"), dot.get("cy"))
    far = np.linalg.norm(signals["id"][7] - signals["text"][7])
    assert title in told.value and f"in {held} users" in told.value and "<img" in told.value
    assert f"id to text, in the space itself: {far:.2f}" in told.value


def test_colours_follow_the_choice(toy, signals, positions):
    colour, drawn, _, _ = gap_explorer(signals, toy, positions).box.children

    def fills():
        svg, _ = svg_of(drawn)
        return [c.get("fill") for c in svg.iter("circle") if c.find("title") is not None]

    assert len(set(fills())) == 1
    colour.value = "topic"
    of_topic = dict(zip(toy.items["topic"], fills(), strict=True))
    assert len(set(of_topic.values())) == 8 and fills() == [of_topic[t] for t in toy.items["topic"]]
    assert "kitchen" in drawn.value
    colour.value = "popularity"
    by_count = dict(zip(toy.popularity_I, fills(), strict=True))
    assert fills() == [by_count[n] for n in toy.popularity_I] and f"{toy.popularity_I.max()} users" in drawn.value


def test_real_data_have_no_truth_titles_may_hold_markup_and_covers_may_be_missing(toy, signals, positions):
    items = toy.items.assign(title='<script>alert("1")</script>')
    bare = dataclasses.replace(toy, items=items, covers=None, truth={})
    colour, drawn, _, told = gap_explorer(signals, bare, positions).box.children
    assert colour.options == ("signal", "popularity")
    assert "<script>" not in drawn.value + told.value and "<img" not in told.value
    assert '<script>alert("1")</script>' in svg_of(drawn)[1][0]


def test_of_a_large_catalogue_some_items_are_drawn(toy, signals, positions, monkeypatch):
    monkeypatch.setattr(gap, "MOST", 50)
    _, drawn, item, _ = gap_explorer(signals, toy, positions).box.children
    assert len(svg_of(drawn)[1]) == 150 and "50 of 500 items are drawn" in drawn.value
    item.value = 499
    assert [text.text for text in svg_of(drawn)[0].iter("text")] == ["id", "image", "text"]


def test_without_a_kernel_there_is_a_picture(toy, signals, positions):
    bundle = gap_explorer(signals, toy, positions)._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR")


def test_what_cannot_be_explored(toy, signals, positions):
    with pytest.raises(fl.FedlabError, match=r"'id' has shape \(5, 4\), but toy has 500 items"):
        gap_explorer({"id": signals["id"][:5]}, toy)
    with pytest.raises(fl.FedlabError, match="positions must be finite"):
        gap_explorer(signals, toy, {"id": positions["id"]})
    with pytest.raises(fl.FedlabError, match="positions must be finite"):
        gap_explorer(signals, toy, positions | {"id": positions["id"] * np.nan})
    with pytest.raises(fl.FedlabError, match="signals is empty"):
        gap_explorer({}, toy)
