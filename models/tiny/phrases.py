"""A very small grammar: how one template becomes many sentences.

`[a|b]` picks one alternative (they nest, and one may be empty); `{name}` takes an entry of `SLOTS`. Both are drawn from the
generator that is handed in, so a seed fixes the whole corpus.
"""

import random
import re

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SPACES = re.compile(r"  +")
_BEFORE_STOP = re.compile(r" ([.,!?])")

SLOTS: dict[str, tuple[str, ...]] = {
    "when": (
        "today",
        "yesterday",
        "this morning",
        "last night",
        "since Monday",
        "two days ago",
        "last week",
        "on Friday",
        "a week ago",
        "this week",
        "since Tuesday",
        "on Sunday",
        "an hour ago",
        "last month",
        "a few days ago",
    ),
    "month": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"),
    "amount": ("20 dollars", "49 dollars", "$12.99", "$99", "15 euros", "120 dollars", "$35", "60 euros", "$250", "8 pounds"),
    "number": ("2", "3", "4", "5", "7", "10", "12", "14", "20", "30", "45", "60", "90"),
    "days": ("two days", "three days", "five days", "a week", "ten days", "two weeks", "a month", "four days"),
    "code": ("#1042", "#88213", "A-1937", "4471", "#20394", "KX-77", "#5561", "90127", "B-3308", "#71"),
    "device": ("phone", "laptop", "tablet", "iPhone", "Android phone", "Mac", "Windows PC", "desktop", "iPad"),
    "browser": ("Chrome", "Firefox", "Safari", "Edge"),
    "item": (
        "shoes",
        "jacket",
        "headphones",
        "lamp",
        "keyboard",
        "chair",
        "coffee machine",
        "backpack",
        "book",
        "camera",
        "phone case",
        "printer",
        "monitor",
        "watch",
        "blender",
        "desk",
        "dress",
        "speaker",
        "charger",
        "mattress",
    ),
    "plan": ("basic plan", "premium plan", "team plan", "pro plan", "family plan", "yearly plan", "monthly plan"),
    "page": (
        "settings page",
        "dashboard",
        "search page",
        "report page",
        "checkout page",
        "profile page",
        "start page",
        "calendar",
        "editor",
        "inbox",
        "map",
        "gallery",
    ),
    "button": (
        "save button",
        "export button",
        "send button",
        "search box",
        "upload button",
        "delete button",
        "menu",
        "filter",
        "print button",
        "share button",
    ),
    "name": (
        "Anna",
        "Ben",
        "Chloe",
        "David",
        "Elena",
        "Farid",
        "Grace",
        "Hugo",
        "Ines",
        "Jonas",
        "Keiko",
        "Liam",
        "Maria",
        "Noah",
        "Olga",
        "Priya",
        "Sam",
        "Tom",
        "Yusuf",
        "Zoe",
    ),
    "city": ("Berlin", "Paris", "London", "Madrid", "Oslo", "Tokyo", "Boston", "Rome", "Lisbon", "Vienna", "Cairo", "Lima"),
    "stop": (".", "!", ""),
    "digit": ("2", "3", "5", "7", "8", "12", "17", "25", "40", "99", "144", "1000"),
    "country": (
        "France",
        "Germany",
        "Spain",
        "Italy",
        "Japan",
        "China",
        "India",
        "Brazil",
        "Canada",
        "Egypt",
        "Kenya",
        "Norway",
        "Sweden",
        "Poland",
        "Greece",
        "Turkey",
        "Mexico",
        "Peru",
        "Australia",
        "England",
    ),
    "work": ("Hamlet", "Faust", "the Odyssey", "Moby Dick", "War and Peace", "the Bible", "Don Quixote", "Dracula", "Emma"),
    "person": ("Einstein", "Mozart", "Napoleon", "Picasso", "Newton", "Cleopatra", "Shakespeare", "Marie Curie", "Darwin", "Elvis"),
    "thing": (
        "love",
        "the sea",
        "autumn",
        "a cat",
        "the moon",
        "a tree",
        "rain",
        "bread",
        "the city",
        "a river",
        "summer",
        "snow",
        "coffee",
        "a train",
        "time",
        "a garden",
        "a house",
        "blue",
        "green",
        "cheese",
        "pong",
        "yes",
        "apple",
    ),
    "language": ("French", "German", "Spanish", "Latin", "Italian", "Chinese", "Greek", "Russian", "Arabic"),
    "food": ("pasta", "bread", "soup", "rice", "pizza", "a cake", "fish", "pancakes", "curry", "eggs", "potatoes", "cookies", "salad"),
    "topic": (
        "gravity",
        "photosynthesis",
        "democracy",
        "the stock market",
        "quantum physics",
        "electricity",
        "black holes",
        "inflation",
        "the heart",
        "a car engine",
        "the internet",
        "evolution",
        "a rainbow",
        "chess",
        "climate change",
        "algebra",
        "a computer",
        "history",
        "music",
        "the universe",
        "machine learning",
        "atoms",
        "volcanoes",
    ),
    "animal": ("dog", "cat", "horse", "spider", "whale", "elephant", "bird", "lion", "snake", "rabbit", "cow", "bear"),
}


def spell(template: str, rng: random.Random) -> str:
    """One sentence of a template, with single spaces and none before punctuation."""
    text = template
    while "[" in text:
        text = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), text)
    text = _SLOT.sub(lambda m: rng.choice(SLOTS[m.group(1)]), text)
    return _BEFORE_STOP.sub(r"\1", _SPACES.sub(" ", text)).strip()


def smudge(text: str, rng: random.Random) -> str:
    """What people do to text: lose capitals, punctuation, words, a letter, or shout."""
    kind = rng.random()
    if kind < 0.35:
        return text.lower()
    if kind < 0.5:
        return text.rstrip(".!?")
    if kind < 0.6:
        return text.lower().replace(",", "").replace(".", "").replace("'", "")
    if kind < 0.65:
        return text.upper()
    if kind < 0.85:
        return " ".join(word for word in text.split(" ") if rng.random() < 0.85) or text
    letters = list(text)
    for _ in range(1 + len(letters) // 60):
        at = rng.randrange(len(letters))
        if letters[at].isalpha():
            how = rng.random()
            if how < 0.5:
                letters[at] = ""
            elif how < 0.8:
                letters[at] = letters[at] * 2
            elif at + 1 < len(letters):
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)
