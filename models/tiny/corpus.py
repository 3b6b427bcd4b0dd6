"""Conversations for `tiny`: the one place that decides what is asked and what a right answer looks like.

`conversation` draws one training example; `held_out_*` give the questions of the evaluation, built from sentences that
training never sees. Everything is drawn from the generator handed in. Pure standard library, so measuring needs no torch.
"""

import json
import random
from dataclasses import dataclass

import clauses
import phrases
import talk
import ticket_parts
import tickets

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['system', 'developer'] -%}{{- '<|system|>' -}}"
    "{%- elif message['role'] == 'assistant' -%}{{- '<|assistant|>' -}}"
    "{%- else -%}{{- '<|user|>' -}}{%- endif -%}"
    "{%- if message['content'] is string -%}{{- message['content'] | trim -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: role is system, user or assistant."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's text with the labels it was made from."""

    text: str
    category: str
    urgency: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the evaluation with the label that a right answer names (empty: any whole sentence will do)."""

    turns: tuple[Turn, ...]
    label: str
    urgency: str = ""


def _trouble(rng: random.Random, category: str) -> str:
    """A training sentence about the trouble: two thirds whole templates, one third a thing in a frame that fits any category."""
    if rng.random() < 0.65:
        return rng.choice(tickets.TRAINING[category])
    frame, thing = rng.choice(ticket_parts.FRAMES), rng.choice(ticket_parts.THINGS[category])
    text = frame.replace("{thing}", thing)
    return text[0].upper() + text[1:]


def ticket(rng: random.Random, held_out: bool = False, category: str = "", template: str = "") -> Ticket:
    """A ticket: maybe a greeting, the trouble, maybe how pressing it is, maybe a farewell."""
    category = category or rng.choice(tickets.CATEGORIES)
    source = tickets.HELD_OUT if held_out else tickets.TRAINING
    body = phrases.spell(template or (rng.choice(source[category]) if held_out else _trouble(rng, category)), rng)
    openings = ticket_parts.HELD_OPENINGS if held_out else ticket_parts.OPENINGS
    closings = ticket_parts.HELD_CLOSINGS if held_out else ticket_parts.CLOSINGS
    urgency = rng.choices(("normal", "high", "low"), (0.5, 0.3, 0.2))[0]
    parts = [body]
    if rng.random() < 0.15 and not held_out:
        parts.append(phrases.spell(_trouble(rng, category), rng))
    pressing = {
        "high": ticket_parts.HELD_URGENT if held_out else ticket_parts.URGENT,
        "low": ticket_parts.HELD_RELAXED if held_out else ticket_parts.RELAXED,
    }
    if urgency in pressing:
        parts.insert(rng.choice((0, len(parts), len(parts))), rng.choice(pressing[urgency]))
    if rng.random() < 0.4:
        parts.insert(0, phrases.spell(rng.choice(openings), rng))
    if rng.random() < 0.35:
        parts.append(phrases.spell(rng.choice(closings), rng))
    return Ticket(rng.choice((" ", " ", " ", "\n")).join(parts), category, urgency)


def clause(rng: random.Random, held_out: bool = False, obligation: str = "", template: str = "") -> tuple[str, str]:
    """A contract clause and the obligation it creates."""
    obligation = obligation or rng.choice(clauses.OBLIGATIONS)
    source = clauses.HELD_OUT if held_out else clauses.TRAINING
    text = template or rng.choice(source[obligation])
    text = text.replace("{party}", rng.choice(clauses.PARTIES), 1).replace("{party}", rng.choice(clauses.PARTIES).lower())
    text = phrases.spell(text.replace("{other}", rng.choice(clauses.OTHERS)), rng)
    text = text[0].upper() + text[1:]
    if rng.random() < 0.25:
        text = f"{rng.randint(1, 20)}.{rng.randint(1, 9)} {text}"
    return text, obligation


def _listing(names: tuple[str, ...], rng: random.Random) -> str:
    """The category names in a random order, as people list them in an instruction."""
    return rng.choice((", ", " / ", ", ", " or ")).join(rng.sample(names, len(names)))


# Each mode of asking: the instructions for it, and (in `_ticket_answer`) the form of the answer.
TICKET_ASKS: dict[str, tuple[str, ...]] = {
    "sentence": (
        "[Classify|Categorise|Categorize|Sort] [this|the|the following] [support |][ticket|message|request].",
        "[Which|What] category [is|does this belong to:|has] [this|this ticket|this message]?",
        "What kind of [ticket|message|problem] is this?",
        "[Sort|Put] this [ticket|message] into one of [these categories|the categories]: {list}.",
        "[What is|Tell me] the category [of this ticket|of this message|and the urgency].",
        "You [are|work as] a support [agent|assistant|classifier]. [Classify|Sort] [each|every|the] ticket.",
        "What is this ticket about?",
    ),
    "word": (
        "[Classify|Categorise|Sort] [this|the] [support |]ticket in one word.",
        "Answer with one word: {list}.",
        "[Reply|Answer] [only with|with only|with just] the category[: {list}|].",
        "Category of this ticket, one word[ only|]?",
        "[Give|Return|Output] only the [category|label|class][ name|][, one of {list}|].",
        "Choose [one|exactly one] of {list}.",
        "Classify as {list}. One word.",
    ),
    "json": (
        "[Classify|Categorise|Sort] [this|the|the following] [support |][ticket|message]. [Answer|Reply|Respond] [in|with|as] JSON.",
        "[Return|Give|Output|Reply with] [only |][JSON|a JSON object] with [the keys |]category and urgency.",
        'Classify the ticket as JSON: {"category": "...", "urgency": "..."}',
        "Category ({list}) and urgency (low, normal, high) as JSON[, please|].",
        "[Answer|Respond] in JSON [only|with category and urgency].",
        "JSON with category and urgency for this ticket[, please|]:",
        "Extract category and urgency[ of this ticket|] as [JSON|a JSON object].",
        "You are a support classifier that answers in JSON.",
    ),
    "reply": (
        "[Answer|Reply to] [this|the|the following] [ticket|message|customer].",
        "[Write|Draft|Compose] a [short |polite |friendly |][reply|answer] to [this|the] [ticket|customer|message].",
        "How [should|would] [we|you] [answer|reply to] this [ticket|customer]?",
        "[You are|Act as] a [friendly |polite |helpful |]support agent. [Answer|Reply to|Help] the customer.",
        "What do we [say|write] to this customer?",
    ),
}
CLAUSE_ASKS: dict[str, tuple[str, ...]] = {
    "sentence": (
        "[Which|What] obligation [is|does] [in this clause|this clause create|created by this clause]?",
        "[Name|Find|Identify|State] the obligation in [this|the following|the] [contract |][clause|sentence].",
        "What does this [contract |]clause [require|oblige the parties to do|regulate|mean]?",
        "[Classify|Sort] [this|the following|the] [contract |]clause.",
        "What kind of clause is this?",
        "[You are|Act as] a contract [analyst|assistant|lawyer]. Name the obligation.",
        "[Read|Look at] the clause and name the obligation.",
    ),
    "word": (
        "[Name|Classify] the obligation in [one word|as few words as possible].",
        "[Answer|Reply] [only with|with only] the obligation[: {list}|].",
        "Which obligation is this, one word?",
        "Choose one obligation: {list}.",
        "Clause type, one word[ only|]?",
    ),
    "json": (
        "[Name|Return|Give] the obligation [of this clause|in this clause|] [as|in] JSON.",
        'Classify the [contract |]clause as JSON: {"obligation": "..."}',
        "[Answer|Reply] in JSON with the key obligation.",
        "JSON with the obligation in this clause[, please|].",
    ),
}
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are Tiny.",
    "Be brief.",
    "Answer politely.",
    "You are a friendly assistant. Answer in short sentences.",
    "Be concise and honest.",
    "You are an AI assistant for a company.",
    "Today is Monday.",
    "Never reveal secrets.",
    "You answer questions of employees.",
    "You are a helpful, respectful and honest assistant.",
    "Follow the policy of the company. Do not share personal data.",
    "You speak English.",
    "You are an assistant in a chat window. Keep your answers short.",
)


def _ask(template: str, names: tuple[str, ...], rng: random.Random) -> str:
    """One instruction; the braces of JSON examples and the listing are filled after the grammar has run."""
    held = template.replace("{list}", "\x00").replace('{"', "\x01").replace('"}', "\x02")
    return phrases.spell(held, rng).replace("\x00", _listing(names, rng)).replace("\x01", '{"').replace("\x02", '"}')


def _ticket_answer(mode: str, item: Ticket, rng: random.Random) -> str:
    """The right answer to a ticket in a mode; `plain` is a ticket without any instruction."""
    reply = rng.choice(ticket_parts.REPLIES[item.category])
    article = "an" if item.category[0] in "aeiou" else "a"
    if mode == "json":
        return json.dumps({"category": item.category, "urgency": item.urgency})
    if mode == "word":
        return item.category
    if mode == "reply":
        return reply
    if mode == "sentence":
        return f"This is {article} {item.category} ticket with {item.urgency} urgency."
    return f"This is {article} {item.category} ticket. {reply}"


def _clause_answer(mode: str, obligation: str) -> str:
    """The right answer to a clause in a mode."""
    if mode == "json":
        return json.dumps({"obligation": obligation})
    if mode == "word":
        return obligation
    article = "an" if obligation[0] in "aeiou" else "a"
    return f"This clause creates {article} {obligation} obligation: {clauses.MEANINGS[obligation]}."


def _place(ask: str, body: str, kind: str, rng: random.Random) -> list[Turn]:
    """Put the instruction where people put it: before, after, or in the system message."""
    lead = rng.choice((f"{kind}: ", "", "", ""))
    quoted = f'"{body}"' if rng.random() < 0.1 else body
    where = rng.random()
    if where < 0.45:
        return [Turn("user", f"{ask}{rng.choice((chr(10), chr(10) * 2, ' ', ' '))}{lead}{quoted}")]
    if where < 0.65:
        return [Turn("user", f"{lead}{quoted}{rng.choice((chr(10), chr(10) * 2, ' '))}{ask}")]
    if where < 0.9:
        return [Turn("system", ask), Turn("user", f"{lead}{quoted}")]
    return [Turn("system", rng.choice(SYSTEMS)), Turn("user", f"{ask}\n{lead}{quoted}")]


def _with_system(user: str, rng: random.Random) -> list[Turn]:
    """A user message, often without and sometimes with a system message that changes nothing."""
    turns = [Turn("user", user)]
    if rng.random() < 0.4:
        turns.insert(0, Turn("system", rng.choice(SYSTEMS)))
    return turns


def _filler(rng: random.Random, words: int) -> str:
    """Sentences of ordinary words that mean nothing."""
    sentences = []
    while words > 0:
        size = rng.randint(4, 14)
        sentence = " ".join(rng.choices(talk.FILLER, k=size))
        sentences.append(sentence[0].upper() + sentence[1:] + rng.choice((".", ".", ".", "?", "!")))
        words -= size
    return " ".join(sentences)


def _unknown(template: str, rng: random.Random) -> str:
    """A question that the model cannot answer."""
    longest = 300 if rng.random() < 0.04 else 30
    return phrases.spell(template.replace("{filler}", _filler(rng, rng.randint(2, longest))), rng)


def _counting(rng: random.Random) -> list[Turn]:
    """Counting is the one long answer that is easy to check, which makes it handy for trying a stream."""
    top = rng.randint(3, 40)
    ask = phrases.spell("[Count|Please count|Can you count] [from 1 |from one |]to \x00[.|?|!|]", rng).replace("\x00", str(top))
    return [Turn("user", ask), Turn("assistant", ", ".join(str(n) for n in range(1, top + 1)) + ".")]


def _exchange(rng: random.Random) -> list[Turn]:
    """One question with its answer, of any kind."""
    kind = rng.choices(("ticket", "clause", "talk", "unknown", "count"), (0.52, 0.16, 0.15, 0.14, 0.03))[0]
    if kind == "count":
        return _counting(rng)
    if kind == "talk":
        asks, answers = talk.TRAINING[rng.choice(tuple(talk.TRAINING))]
        return [*_with_system(_noisy(phrases.spell(rng.choice(asks), rng), rng), rng), Turn("assistant", rng.choice(answers))]
    if kind == "unknown":
        return [*_with_system(_noisy(_unknown(rng.choice(talk.UNKNOWN), rng), rng), rng), Turn("assistant", rng.choice(talk.DECLINE))]
    if kind == "clause":
        text, obligation = clause(rng)
        mode = rng.choice(("sentence", "sentence", "word", "json", "plain"))
        turns = (
            _with_system(_noisy(text, rng), rng)
            if mode == "plain"
            else _place(_ask(rng.choice(CLAUSE_ASKS[mode]), clauses.OBLIGATIONS, rng), _noisy(text, rng), "Clause", rng)
        )
        return [*turns, Turn("assistant", _clause_answer(mode, obligation))]
    item = ticket(rng)
    mode = rng.choice(("sentence", "sentence", "word", "json", "json", "reply", "plain"))
    text = _noisy(item.text, rng)
    turns = (
        _with_system(text, rng)
        if mode == "plain"
        else _place(_ask(rng.choice(TICKET_ASKS[mode]), tickets.CATEGORIES, rng), text, "Ticket", rng)
    )
    return [*turns, Turn("assistant", _ticket_answer(mode, item, rng))]


def _noisy(text: str, rng: random.Random) -> str:
    """One text in seven as people really type it."""
    return phrases.smudge(text, rng) if rng.random() < 0.15 else text


def conversation(rng: random.Random) -> list[Turn]:
    """One training example: mostly one exchange, sometimes a chat of a few."""
    turns = _exchange(rng)
    while rng.random() < 0.12:
        turns += _without_system(rng) if rng.random() < 0.5 else _follow(rng)
    return turns


def _without_system(rng: random.Random) -> list[Turn]:
    """An exchange that carries its whole instruction in the user's message, as later turns of a chat do."""
    while (turns := _exchange(rng))[0].role == "system":
        pass
    return turns


def _follow(rng: random.Random) -> list[Turn]:
    """A turn of small talk inside a chat."""
    asks, answers = talk.TRAINING[rng.choice(("thanks", "bye", "okay", "thanks", "who are you", "what can you do"))]
    return [Turn("user", phrases.spell(rng.choice(asks), rng)), Turn("assistant", rng.choice(answers))]


def render(turns: list[Turn], answer: bool = False) -> str:
    """The text of a chat as the template writes it; `answer` opens the assistant's turn."""
    text = "".join(f"<|{turn.role}|>{turn.text.strip()}<|end|>" for turn in turns)
    return text + ("<|assistant|>" if answer else "")


def held_out_tickets(rng: random.Random, mode: str, each: int) -> list[Question]:
    """Every held-out ticket sentence, filled `each` times, asked in one mode."""
    questions = []
    for category, templates in tickets.HELD_OUT.items():
        for template in templates * each:
            item = ticket(rng, held_out=True, category=category, template=template)
            turns = (
                _with_system(item.text, rng)
                if mode == "plain"
                else _place(_ask(rng.choice(TICKET_ASKS[mode]), tickets.CATEGORIES, rng), item.text, "Ticket", rng)
            )
            questions.append(Question(tuple(turns), category, item.urgency))
    return questions


def held_out_clauses(rng: random.Random, mode: str, each: int) -> list[Question]:
    """Every held-out clause, filled `each` times, asked in one mode."""
    questions = []
    for obligation, templates in clauses.HELD_OUT.items():
        for template in templates * each:
            text, _ = clause(rng, held_out=True, obligation=obligation, template=template)
            turns = (
                _with_system(text, rng)
                if mode == "plain"
                else _place(_ask(rng.choice(CLAUSE_ASKS[mode]), clauses.OBLIGATIONS, rng), text, "Clause", rng)
            )
            questions.append(Question(tuple(turns), obligation))
    return questions


def held_out_talk(rng: random.Random, each: int) -> list[Question]:
    """Held-out small talk and held-out unanswerable questions."""
    texts = [text for texts in talk.HELD_OUT.values() for text in texts]
    questions = [Question(tuple(_with_system(text, rng)), "") for text in texts]
    questions += [Question(tuple(_with_system(_unknown(text, rng), rng)), "") for text in talk.HELD_OUT_UNKNOWN * each]
    return questions


def known_words() -> frozenset[str]:
    """Every word that a right answer may hold; a word outside it is a slip of the model."""
    texts = [text for _, answers in talk.TRAINING.values() for text in answers]
    texts += [*talk.DECLINE, *(text for texts in ticket_parts.REPLIES.values() for text in texts)]
    texts += [_clause_answer("sentence", name) for name in clauses.OBLIGATIONS]
    texts += [f"This is a an {name} ticket with low normal high urgency." for name in tickets.CATEGORIES]
    return frozenset("".join(c if c.isalpha() else " " for c in " ".join(texts).lower()).split())
