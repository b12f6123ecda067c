"""What the mock provider says: prose of an exact length, and JSON that satisfies a schema. Pure, no I/O.

Prose is a courteous reply to a customer, in English or Chinese, measured in tokens of the `words` tokenizer.
The same seed gives the same text. What is asked for, and how it is sent, is the matter of `fake`,
`fake_ask` and `fake_server`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from faucet.kit.tokens import WORD, count_text

_HAN = re.compile("[\u4e00-\u9fff]")
_LATIN_WORD = re.compile("[A-Za-z]+")
_ASKED = re.compile(
    r"(?<![\d.,])(\d{1,6})(?:\s*[- ]?\s*(?:words?|tokens?)\b|\s*个?(?:字(?![段符母体典节])|词|token))", re.I
)
# One token with the space before it. U+3000 is a space to Python, but a token of its own to `words`.
_PIECE = re.compile("[^\\S\u3000]*(?:[\u2e80-\uffff]|[^\\s\u2e80-\uffff]+)")

_TOPICS = (
    ("refund|money back|退款|退货", "refund"),
    ("deliver|shipping|parcel|order|快递|发货|物流|订单|送", "delivery"),
    ("price|quote|discount|invoice|价格|报价|优惠|发票|多少钱", "price"),
    ("broken|error|fail|crash|bug|坏|故障|报错|问题", "fault"),
)
_ENGLISH_OPENINGS = {
    "refund": "Thank you for your message; we have found your payment and started the refund today.",
    "delivery": "Thank you for your message; we have checked your order and it is on its way.",
    "price": "Thank you for your interest; we have prepared an offer that fits what you described.",
    "fault": "Thank you for reporting this; we are sorry for the trouble and are looking into it.",
    "general": "Thank you for getting in touch; we have read your message and are glad to help.",
}
_ENGLISH = (
    "A colleague who knows your account will follow the matter until it is closed.",
    "You do not need to do anything else at this point.",
    "If anything in the record below looks wrong, just reply to this message.",
    "We expect to have news for you within two working days.",
    "Your reference number stays the same, so please keep it at hand.",
    "We have noted your wish to be called in the afternoon.",
    "The details that you sent were complete and made our work easier.",
    "Should the date not suit you, we will gladly propose another one.",
    "We know that waiting is tiresome, and we are grateful for your patience.",
    "Everything that we agreed on will be confirmed to you in writing.",
    "There is no extra charge for this service.",
    "Our support desk is open on weekdays from nine to six.",
    "We have also passed your suggestion on to the product team.",
    "In the meantime you can follow the progress in your customer area.",
    "A short summary of our call is attached to your file.",
    "Please tell us if another person in your company should be informed.",
    "We will write to you again as soon as the next step is done.",
    "Several customers told us the same, so we take it seriously.",
    "You can reach me directly under the number in my signature.",
)
_ENGLISH_CLOSINGS = (  # the place of each is its length, so that any rest can be filled exactly
    "",
    "Regards.",
    "Kind regards.",
    "With kind regards.",
    "Please write back anytime.",
    "Thank you for your patience.",
    "We look forward to your reply.",
    "We are here whenever you need us.",
    "Please let us know if that suits you.",
    "We wish you a very pleasant rest of today.",
)
_CHINESE_OPENINGS = {
    "refund": "您好，感谢您的来信，您的退款申请我们今天已经开始处理。",
    "delivery": "您好，感谢您的来信，您的订单我们已经核实，正在配送途中。",
    "price": "您好，感谢您的关注，我们已经按照您的需求准备了报价。",
    "fault": "您好，感谢您的反馈，给您带来不便非常抱歉，我们正在排查。",
    "general": "您好，感谢您的来信，您的情况我们已经了解，很高兴为您服务。",
}
_CHINESE = (
    "专属顾问会全程跟进，直到事情圆满解决。",
    "目前您不需要再做其他操作。",
    "如果下面的信息有误，请直接回复我们。",
    "预计两个工作日内会给您答复。",
    "您的服务编号保持不变，请妥善保管。",
    "您希望下午接听电话，我们已经记录。",
    "您提供的资料很完整，为我们节省了时间。",
    "如果时间不合适，我们可以另行安排。",
    "让您久等了，感谢您的耐心与理解。",
    "双方确认的内容，我们会以书面形式发给您。",
    "这项服务不会产生额外费用。",
    "客服时间为工作日上午九点至下午六点。",
    "您的建议我们也已经转交给产品团队。",
    "您也可以在客户中心随时查看进度。",
    "如需通知贵公司的其他同事，请告诉我们。",
    "下一步完成之后，我们会第一时间联系您。",
    "也有其他客户提到这一点，我们非常重视。",
)
_CHINESE_CLOSINGS = (
    "",
    "好",
    "好。",
    "谢谢。",
    "感谢您。",
    "祝您愉快。",
    "期待您回复。",
    "祝您工作顺利。",
    "祝您一切都顺利。",
    "请您随时联系我们。",
    "感谢您的理解与支持。",
)
_OPENING_LIMIT = 40
"""At least the tokens of the longest opening and of two sentences: shorter replies have no opening."""


class Impossible(ValueError):
    """No value for this JSON schema was found."""


def is_chinese(text: str) -> bool:
    """Whether a text is rather Chinese than anything else: at least as many Han characters as Latin words."""
    han = len(_HAN.findall(text))
    return han > 0 and han >= len(_LATIN_WORD.findall(text))


def asked_length(text: str) -> int | None:
    """The number of words that a text asks for, as in "in 200 words" or "200字"."""
    match = _ASKED.search(text)
    return int(match[1]) if match else None


def prose(length: int, question: str, seed: int) -> str:
    """A believable reply to `question`, of exactly `length` tokens of `words`."""
    chinese = is_chinese(question)
    bank, closings = (_CHINESE, _CHINESE_CLOSINGS) if chinese else (_ENGLISH, _ENGLISH_CLOSINGS)
    parts: list[str] = []
    left = length
    if length >= _OPENING_LIMIT:
        openings = _CHINESE_OPENINGS if chinese else _ENGLISH_OPENINGS
        parts.append(openings[_topic(question)])
        left -= count(parts[0])
    # A walk over the whole bank, another one at each seed; sentences come again only when all were used.
    place, stride = seed % len(bank), 1 + seed // len(bank) % (len(bank) - 1)
    longest = len(closings) - 1
    while left > 2 * longest:
        parts.append(bank[place])
        left -= count(bank[place])
        place = (place + stride) % len(bank)
    if left > longest:
        parts.append(closings[left - longest])
        left = longest
    parts.append(closings[left])
    return ("" if chinese else " ").join(part for part in parts if part)


def _topic(question: str) -> str:
    lowered = question.lower()
    return next((topic for words, topic in _TOPICS if re.search(words, lowered)), "general")


def count(text: str) -> int:
    """The tokens of a text by `words`."""
    return count_text(text, "words")


def cut(text: str, limit: int) -> str:
    """The longest beginning of a text that has at most `limit` tokens."""
    if count(text) <= limit:
        return text
    end = 0
    for index, match in enumerate(WORD.finditer(text)):
        if index == limit:
            return text[:end]
        end = match.end()
    return text


def pieces(text: str) -> list[str]:
    """A text cut into its tokens, each with the space before it. Together they are the text."""
    found = _PIECE.findall(text)
    rest = text[sum(map(len, found)) :]
    if not found:
        return [rest] if rest else []
    found[-1] += rest
    return found


def instance(schema: Any, text: str | None = None) -> Any:
    """A minimal value that is valid for a JSON schema; its first free string says `text`, if given.

    Knows local `$ref`, type, enum, const, properties, items, anyOf/oneOf/allOf, bounds, formats and plain
    patterns. Raises Impossible where it finds no value (a required cycle, an unreachable `$ref`, a pattern
    beyond it).
    """
    try:
        return _Filler(schema, text).value(schema, "", 0)
    except Impossible:
        raise
    except (TypeError, AttributeError, ArithmeticError, ValueError, RecursionError) as error:
        raise Impossible(f"the schema is malformed: {error}") from error


def compact(value: Any) -> str:
    """A value as JSON text without spaces between its parts."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_FORMATS = {
    "date-time": "2026-01-15T09:30:00Z",
    "date": "2026-01-15",
    "time": "09:30:00Z",
    "duration": "P1D",
    "email": "customer@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "01890a5d-ac96-774b-bcce-b302099a8057",
}
_BY_NAME = (
    ("mail", "customer@example.com"),
    ("city|location|城市", "Berlin"),
    ("country", "Germany"),
    ("date|day", "2026-01-15"),
    ("url|link", "https://example.com/"),
    ("name|姓名", "Alex Chen"),
    ("id$|number|code", "A-1024"),
    ("query|question|search", "order status"),
)


class _Filler:
    """One filling of one schema: knows the root for `$ref`, and whether the text was used."""

    def __init__(self, root: Any, text: str | None) -> None:
        self.root = root
        self.text = text
        self.steps = 0

    def value(self, schema: Any, name: str, depth: int) -> Any:
        self.steps += 1
        if depth > 64 or self.steps > 10_000:
            raise Impossible("the schema requires itself without end")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise Impossible("a schema is an object")
        if "$ref" in schema:
            return self.value(self._resolved(schema["$ref"]), name, depth + 1)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][0]
        if isinstance(schema.get("allOf"), list):
            return self.value(self._merged(schema), name, depth + 1)
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list) and schema[word]:
                return self._first_of(schema, word, name, depth)
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), "null")
        if kind is None:
            kind = _implied_type(schema)
        makers: dict[str, Callable[[dict[str, Any], str, int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
            "boolean": lambda schema, name, depth: True,
            "null": lambda schema, name, depth: None,
        }
        if kind not in makers:
            raise Impossible(f"unknown type {kind!r}")
        return makers[kind]({**schema, "type": kind}, name, depth)

    def _resolved(self, reference: Any) -> Any:
        found = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise Impossible("only local references can be followed")
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or step not in found:
                raise Impossible(f"{reference} leads nowhere")
            found = found[step]
        return found

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        if len(schema["allOf"]) > 256:
            raise Impossible("the schema requires itself without end")
        for part in schema["allOf"]:
            steps = 0
            while isinstance(part, dict) and "$ref" in part and steps < 64:
                part, steps = self._resolved(part["$ref"]), steps + 1
            if not isinstance(part, dict):
                raise Impossible("allOf holds schemas")
            for key, value in part.items():
                if key == "properties":
                    value = {**merged.get("properties", {}), **value}
                elif key == "required":
                    value = [*merged.get("required", []), *value]
                elif key == "allOf":
                    value = [*merged.get("allOf", []), *value]
                merged[key] = value
        return merged

    def _first_of(self, schema: dict[str, Any], word: str, name: str, depth: int) -> Any:
        rest = {key: value for key, value in schema.items() if key != word}
        trouble: Impossible | None = None
        for choice in schema[word]:
            try:
                return self.value({**rest, "allOf": [choice]} if rest else choice, name, depth + 1)
            except Impossible as impossible:
                trouble = impossible
        raise trouble or Impossible(f"{word} is empty")

    def _object(self, schema: dict[str, Any], name: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        made: dict[str, Any] = {}
        for key in schema.get("required", ()):
            made[key] = self.value(properties.get(key, {"type": "string"}), key, depth + 1)
        wanted = schema.get("minProperties", 0)
        for key in properties:
            if len(made) < wanted and key not in made:
                made[key] = self.value(properties[key], key, depth + 1)
        extra = schema.get("additionalProperties", True)
        while len(made) < wanted and extra is not False:
            made[f"key_{len(made) + 1}"] = self.value(extra, "", depth + 1)
        if len(made) < wanted:
            raise Impossible("minProperties is more than there are")
        return made

    def _array(self, schema: dict[str, Any], name: str, depth: int) -> list[Any]:
        wanted = schema.get("minItems", 0)
        if not isinstance(wanted, int) or wanted > 1000:
            raise Impossible("minItems is too large")
        first = schema.get("prefixItems", [])
        made = [self.value(item, name, depth + 1) for item in first[:wanted]]
        item = schema.get("items", {"type": "string"})
        while len(made) < wanted:
            one = self.value(item, name, depth + 1)
            if schema.get("uniqueItems") and one in made:
                one = _another(item, made)
            made.append(one)
        return made

    def _string(self, schema: dict[str, Any], name: str, depth: int) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength", 1 << 20)
        if low > high or low > 1 << 16:
            raise Impossible("minLength is too large")
        if "pattern" in schema:
            return _matching(str(schema["pattern"]), low, high)
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        made = next((text for words, text in _BY_NAME if re.search(words, name.lower())), None)
        if made is None:
            made, self.text = self.text or "example", None
        return made[:high].ljust(low, ".")

    def _number(self, schema: dict[str, Any], name: str, depth: int) -> int | float:
        whole = schema["type"] == "integer"
        step = schema.get("multipleOf", 1)
        low = schema.get("exclusiveMinimum", schema.get("minimum"))
        high = schema.get("exclusiveMaximum", schema.get("maximum"))
        start = low if low is not None else min(high, 1) if high is not None else 1
        made = start // step * step
        for _ in range(3):
            if _within(made, schema) and (not whole or made == int(made)):
                return int(made) if whole or made == int(made) else made
            made += -step if low is None else step
        if not whole and low is not None and high is not None and _within((low + high) / 2, schema):
            return float((low + high) / 2)
        raise Impossible("no number within the bounds")


def _implied_type(schema: dict[str, Any]) -> str:
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if "minimum" in schema or "maximum" in schema or "multipleOf" in schema:
        return "number"
    return "string"


def _within(number: float, schema: dict[str, Any]) -> bool:
    return (
        number >= schema.get("minimum", number)
        and number <= schema.get("maximum", number)
        and ("exclusiveMinimum" not in schema or number > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or number < schema["exclusiveMaximum"])
        and ("multipleOf" not in schema or number % schema["multipleOf"] == 0)
    )


def _another(item: Any, made: list[Any]) -> Any:
    """A value of the item's schema that isn't in `made`: another enum member, number or string."""
    if isinstance(item, dict) and isinstance(item.get("enum"), list):
        fresh = [one for one in item["enum"] if one not in made]
        if fresh:
            return fresh[0]
    last = made[-1]
    if isinstance(last, int) and not isinstance(last, bool) and _within(last + 1, item):
        return last + 1
    if isinstance(last, str) and not {"enum", "pattern", "format", "maxLength"} & set(item):
        return f"{made[0]} {len(made) + 1}"
    raise Impossible("uniqueItems: too few different values are known")


_TYPICAL = ("example", "a", "A", "1", "abc", "ABC", "A-1024", "ORD-1024", "+14155550100", *_FORMATS.values())


def _matching(pattern: str, low: int, high: int) -> str:
    """A string that the pattern finds something in, of the given length. Raises Impossible."""
    try:
        searched = re.compile(pattern)
        for text in (*_TYPICAL, _sample(pattern)):
            if low <= len(text) <= high and searched.search(text):
                return text
    except (re.error, RecursionError, OverflowError):
        pass
    raise Impossible(f"no text was found for the pattern {pattern!r}")


def _sample(pattern: str) -> str:
    """A text for a plain pattern: literals, classes, groups, alternatives and repeats (the fewest)."""
    text = re.sub(r"^\^|\$$", "", pattern)
    text = re.sub(r"\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)", r"\1", text)
    made = ""
    for atom, repeat in re.findall(r"(\\.|\[\^?\]?[^\]]*\]|[^\\\[\]])(\{\d+(?:,\d*)?\}|[*+?])?", text):
        alphabet = "aA1-_ .:/@0bB"
        one = next((letter for letter in alphabet if re.fullmatch(atom, letter)), atom[-1])
        fewest = int(re.sub(r"\D.*", "", repeat[1:])) if repeat.startswith("{") else int(repeat in ("", "+"))
        made += one * min(fewest, 1000)
    return made
