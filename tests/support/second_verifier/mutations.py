"""Change receipts, notes and policies at random, by their text and by their structure.

Invariants:
    * a change depends on the random generator and its arguments alone, so a seed repeats it;
    * whatever is valid in the result was valid before: no private key is at hand here.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator
from random import Random

from tests.support.second_verifier.cbor import Value, decode, encode
from tests.support.second_verifier.refusal import Refused

ALPHABET = '0123456789abcdefABCDEF+/=_- \n\t\r"\\{}[],:\x00\x7f\u2014\u00e9\u2028\ud800\ufeff'
BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
NUMBER = re.compile(r"\d+")
Change = Callable[[Random, str, str], str]


def mutate(random: Random, text: str, other: str) -> str:
    """One to three changes of ``text``; some take a piece of ``other``, which is of the same sort."""
    for _ in range(random.choice((1, 1, 1, 1, 2, 3))):
        text = random.choice(CHANGES)(random, text, other)
    return text


def _flip(random: Random, text: str, other: str) -> str:
    at = random.randrange(len(text)) if text else 0
    return (
        text[:at]
        + "".join(chr(ord(letter) ^ 1 << random.randrange(7)) for letter in text[at : at + 1])
        + text[at + 1 :]
    )


def _cut(random: Random, text: str, other: str) -> str:
    at, width = random.randrange(len(text) + 1), random.choice((1, 1, 1, 4, 44, 1000))
    return text[:at] + text[at + width :]


def _insert(random: Random, text: str, other: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(ALPHABET) + text[at:]


def _replace(random: Random, text: str, other: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(ALPHABET) + text[at + 1 :]


def _swap(random: Random, text: str, other: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]


def _splice(random: Random, text: str, other: str) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + other[min(at, len(other)) :]


def _ends(random: Random, text: str, other: str) -> str:
    return random.choice(
        (text + "\n", text[:-1], "\ufeff" + text, " " + text, text + " ", text.replace("\n", "\r\n"), text * 2, "")
    )


def _lines(random: Random, text: str, other: str) -> str:
    lines, others = text.split("\n"), other.split("\n")
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            lines[one], lines[two] = lines[two], lines[one]
        case 1:
            del lines[one]
        case 2:
            lines.insert(two, lines[one])
        case 3:
            lines[one] = random.choice(others)
        case 4:
            lines.insert(one, random.choice(others))
        case _:
            lines[one] = others[min(one, len(others) - 1)]
    return "\n".join(lines)


def _number(random: Random, text: str, other: str) -> str:
    found = list(NUMBER.finditer(text))
    if not found:
        return text
    match = random.choice(found)
    number = match.group()
    changed = random.choice(
        (
            str(int(number) + 1),
            str(int(number) - 1),
            "0" + number,
            number + "0",
            "-" + number,
            number + ".0",
            "1e0",
            "",
        )
        if len(number) < 30
        else ("0" + number,)
    )
    return text[: match.start()] + changed + text[match.end() :]


def _base64(random: Random, text: str, other: str) -> str:
    found = list(BASE64.finditer(text))
    if not found:
        return text
    match = random.choice(found)
    others = [each.group() for each in BASE64.finditer(other)]
    return text[: match.start()] + _other_base64(random, match.group(), others) + text[match.end() :]


def _other_base64(random: Random, token: str, others: list[str]) -> str:
    same = [each for each in others if len(each) == len(token)]
    match random.randrange(7):
        case 0:
            return random.choice(same or [token])
        case 1:
            return token.rstrip("=")
        case 2:
            return token + "="
        case 3:
            return token.replace("+", "-").replace("/", "_")
        case 4:  # another spelling of the same bytes where there is padding: the spare bits
            digits = token.rstrip("=")
            return digits[:-1] + chr(ord(digits[-1]) + 1) + token[len(digits) :]
        case 5:
            return token[:8] + random.choice(("\n", " ", "\t", "=")) + token[8:]
        case _:
            return _bytes_text(_other_bytes(random, _text_bytes(token) or b"", b""))


def _text_bytes(token: str) -> bytes | None:
    try:
        return base64.b64decode(token, validate=True)
    except ValueError:
        return None


def _bytes_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _other_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    at = random.randrange(len(data)) if data else 0
    match random.randrange(8):
        case 0:
            return data[:at] + data[at + 1 :]
        case 1:
            return data[:at] + random.randbytes(1) + data[at:]
        case 2:
            return data + b"\0"
        case 3:
            return data[:at] + other[at:]
        case 4:
            return bytes(len(data))
        case 5:
            return _recoded(random, data)
        case _:
            flipped = bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1])
            return data[:at] + flipped + data[at + 1 :]


def _recoded(random: Random, data: bytes) -> bytes:
    """The same bytes with a change in what they encode, or in how, where they are CBOR."""
    try:
        value = decode(data)
    except Refused:
        return data
    if random.randrange(3) == 0:
        return _spelled_otherwise(random, data)
    return _encoded(_other_tree(random, value, value))


def _spelled_otherwise(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    major, code = data[at] & 0xE0, data[at] & 31
    if code < 24:
        return data[:at] + random.choice((bytes([major | 24, code]), bytes([major | 25, 0, code]))) + data[at + 1 :]
    return data[:at] + bytes([major | random.choice((25, 26, 27, 31))]) + data[at + 1 :]


def _encoded(value: Value) -> bytes:
    try:
        return encode(value)
    except (Refused, UnicodeEncodeError):
        return b""


def _tree(random: Random, text: str, other: str) -> str:
    """Change the structure, spell the result canonically: what reaches the deeper checks."""
    if text.startswith("{"):
        return _json_tree(random, text, other)
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    try:
        value = decode(_text_bytes(lines[1].removeprefix("extra ")) or b"")
        others = other.split("\n")[1].removeprefix("extra ") if other.startswith("c2sp.org/") else ""
        taken = decode(_text_bytes(others) or b"\xa0")
    except (IndexError, Refused):
        return _note(random, text, other)
    data = _encoded(_other_tree(random, value, taken))
    if random.randrange(8) == 0 and data:
        data = _spelled_otherwise(random, data)
    lines[1] = "extra " + _bytes_text(data)
    return "\n".join(lines) + "\n\n" + note


def _json_tree(random: Random, text: str, other: str) -> str:
    try:
        value = json.loads(text)
        taken = json.loads(other) if other.startswith("{") else {}
    except (ValueError, RecursionError):
        return text
    changed = _other_tree(random, value, taken)
    match random.randrange(20):
        case 0:
            return json.dumps(changed, default=_bytes_text) + "\n"
        case 1:
            return json.dumps(changed, default=_bytes_text, indent=2) + "\n"
        case 2:
            return json.dumps(changed, default=_bytes_text, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        case _:
            return json.dumps(changed, default=_bytes_text, indent=2, ensure_ascii=False) + "\n"


def _places(value: Value, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _places(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _places(item, (*path, place))


def _at(value: Value, path: tuple[str | int, ...]) -> Value:
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value


def _with(value: Value, path: tuple[str | int, ...], item: Value) -> Value:
    if not path:
        return item
    step, rest = path[0], path[1:]
    if isinstance(value, dict) and isinstance(step, str):
        return {name: _with(each, rest, item) if name == step else each for name, each in value.items()}
    if isinstance(value, list):
        return [_with(each, rest, item) if place == step else each for place, each in enumerate(value)]
    return value


def _other_tree(random: Random, value: Value, other: Value) -> Value:
    path = random.choice(list(_places(value)))
    here = _at(value, path)
    match random.randrange(8):
        case 0 | 1:
            return _with(value, path, _at(other, path))
        case 2:
            return _with(value, path, _at(value, random.choice(list(_places(value)))))
        case 3:
            return _with(value, path, _at(other, random.choice(list(_places(other)))))
        case _:
            return _with(value, path, _other_item(random, here))


def _other_item(random: Random, item: Value) -> Value:
    if isinstance(item, bool) or item is None:
        return random.choice((True, False, None, 0, b"", "", [], {}))
    if isinstance(item, int):
        return random.choice(
            (item + 1, max(item - 1, 0), 0, -1, 2**63, 2**64 - 1, str(item), True, 1 << random.randrange(64))
        )
    if isinstance(item, bytes):
        return _other_bytes(random, item, random.randbytes(len(item)))
    if isinstance(item, str):
        return _other_text(random, item)
    if isinstance(item, dict):
        return _other_map(random, item)
    if isinstance(item, list):
        return _other_list(random, item)
    return item


def _other_text(random: Random, text: str) -> Value:
    data = _text_bytes(text) if len(text) >= 16 else None
    if data is not None:
        return _bytes_text(_other_bytes(random, data, random.randbytes(len(data))))
    words = "state past-state record records transaction revocation member consent config ruleset policy access"
    return random.choice((*words.split(), "", text + " ", text.upper(), text[:-1], 1, None))


def _other_map(random: Random, item: dict[str, Value]) -> Value:
    names = list(item)
    if not names:
        return {"x": 1}
    name = random.choice(names)
    match random.randrange(4):
        case 0:
            return {each: item[each] for each in names if each != name}
        case 1:
            return {**item, random.choice(("x", "sealed", "salt", "op", "base64")): item[name]}
        case 2:
            random.shuffle(names)
            return {each: item[each] for each in names}
        case _:
            return {(each + "x" if each == name else each): part for each, part in item.items()}


def _other_list(random: Random, item: list[Value]) -> Value:
    if not item:
        return [random.choice((bytes(32), _bytes_text(bytes(32)), 0, None))]
    at, to = random.randrange(len(item)), random.randrange(len(item))
    changed = list(item)
    match random.randrange(5):
        case 0:
            del changed[at]
        case 1:
            changed.insert(to, item[at])
        case 2:
            changed[at], changed[to] = item[to], item[at]
        case 3:
            changed.append(bytes(32) if isinstance(item[-1], bytes) else _bytes_text(bytes(32)))
        case _:
            changed = changed[::-1]
    return changed


def _note(random: Random, text: str, other: str) -> str:
    """Change the checkpoint: exchange lines, signatures, key ids, names, times or the text below."""
    found, foreign = note_of(text), note_of(other)
    if not (found and foreign):
        return text
    body, lines = found[0], list(found[1])
    one, two = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(8):
        case 0:
            body = foreign[0]
        case 1:
            lines = foreign[1]
        case 2:
            lines[one] = random.choice(foreign[1])
        case 3:
            lines.insert(one, random.choice(foreign[1]))
        case 4:
            lines[one] = _joined(lines[one], lines[two])
        case 5:
            lines[one] = _joined(lines[one], random.choice(foreign[1]))
        case 6:
            random.shuffle(lines)
        case _:
            lines[one] = _other_line(random, lines[one])
    return _with_note(text, body + "\n\n" + "\n".join(lines) + "\n")


def note_of(text: str) -> tuple[str, list[str]] | None:
    if text.startswith("{"):
        try:
            lines = json.loads(text).get("checkpoint")
        except (ValueError, AttributeError, RecursionError):
            return None
        if not (isinstance(lines, list) and all(isinstance(line, str) for line in lines)):
            return None
        note = "\n".join(lines)
    else:
        note = text.partition("\n\n")[2]
    body, _, lines_text = note.rpartition("\n\n")
    return (body, lines_text.rstrip("\n").split("\n")) if body and lines_text else None


def _with_note(text: str, note: str) -> str:
    if not text.startswith("{"):
        return text.partition("\n\n")[0] + "\n\n" + note
    value = json.loads(text)
    value["checkpoint"] = note.split("\n")
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _joined(line: str, other: str) -> str:
    """The name and key id of one line, the signature of another."""
    one, two = (_text_bytes(each.rpartition(" ")[2]) or b"" for each in (line, other))
    return line.rpartition(" ")[0] + " " + _bytes_text(one[:4] + two[4:])


def _other_line(random: Random, line: str) -> str:
    head, _, token = line.rpartition(" ")
    data = _text_bytes(token) or bytes(68)
    match random.randrange(5):
        case 0:
            data = bytes([data[0] ^ 1]) + data[1:]
        case 1:
            at = random.randrange(4, len(data)) if len(data) > 4 else 0
            data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case 2:
            data = data[: random.randrange(len(data) + 1)]
        case 3:
            time = int.from_bytes(data[4:12], "big") + random.choice((-1, 1, 3600))
            data = data[:4] + (time % (1 << 64)).to_bytes(8, "big") + data[12:]
        case _:
            head = random.choice(
                (head + "x", head.replace("\u2014", "-"), head + " x", head.replace(".", "+"), "\u2014 ")
            )
    return head + " " + _bytes_text(data)


CHANGES: tuple[Change, ...] = (
    *(_flip, _cut, _insert, _replace, _swap, _splice, _ends, _lines, _lines, _number, _base64, _base64),
    *(_tree, _tree, _tree, _tree, _tree, _tree, _note, _note, _note),
)
