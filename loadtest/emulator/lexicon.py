"""The words that this service hears. Which one is heard is decided by the sound's hash alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Final

_ENGLISH: Final = (
    "the a and of to in it is was for on with that this have from they we when what there about which some then now time only "
    "other than into our over think also back after use how work first well way even new want because any these give day most "
    "pain knee back head chest cough fever sleep morning evening week month left right better worse walk stairs medicine tablet "
    "doctor nurse blood pressure heart breath stomach water food salt sugar weight test result letter hospital clinic visit "
    "again often never always since until before little much many long short warm cold slowly quickly today yesterday tomorrow "
    "please thank yes no good fine careful gentle strong weak"
)
_JAPANESE: Final = (
    "私 は が を に で と も の から まで です ます した して いる ある ない この その 今日 昨日 明日 朝 夜 毎日 先週 今週 来週 少し とても "
    "もう まだ 時々 いつも 痛み 膝 腰 頭 胸 咳 熱 眠り 薬 錠剤 先生 看護師 血圧 心臓 呼吸 胃 水 食事 塩分 体重 検査 結果 手紙 病院 診察 右 左 "
    "良く 悪く 歩く 階段 飲む 食べる 休む 感じ 様子 具合 症状 説明 大丈夫 お願い ありがとう はい いいえ 分かり ました でした 続け 始め 終わり "
    "強い 弱い 長い 短い 暖かい 冷たい 早く ゆっくり 前 後 上 下 中 外 家 仕事 運動"
)
_FILLERS: Final = {"en": ("um", "uh"), "ja": ("えー", "あの")}
"""The words that a vocabulary filter of any name filters."""
_PII: Final = {
    "en": {"Alice": "NAME", "Bob": "NAME", "Monday": "DATE_TIME", "Springfield": "ADDRESS"},
    "ja": {"田中": "NAME", "鈴木": "NAME", "月曜日": "DATE_TIME", "大阪": "ADDRESS"},
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One word.

    Attributes:
        text: as written.
        capital: in the first place of a sentence. No word has a character that JSON escapes.
        filler: whether a vocabulary filter filters it.
        pii: its kind of PII, or empty.
    """

    text: str
    capital: str
    filler: bool
    pii: str


@dataclass(frozen=True, slots=True)
class Lexicon:
    """A language's words and how they are put together."""

    words: tuple[Entry, ...]
    space: str
    comma: str
    stop: str

    def entry(self, key: int) -> Entry:
        """The word that a hash stands for."""
        return self.words[key % len(self.words)]


def quoted(text: str) -> str:
    """``text`` as JSON."""
    return json.dumps(text, ensure_ascii=False)


@cache
def lexicon(language: str) -> Lexicon:
    """The words of a language: Japanese ones for Japanese, English ones for any other."""
    code = "ja" if language.startswith("ja") else "en"
    plain = (_JAPANESE if code == "ja" else _ENGLISH).split()
    names = _PII[code]
    words = tuple(
        Entry(word, word[:1].upper() + word[1:], word in _FILLERS[code], names.get(word, ""))
        for word in [*plain, *_FILLERS[code], *names]
    )
    return Lexicon(words, "", "、", "。") if code == "ja" else Lexicon(words, " ", ",", ".")
