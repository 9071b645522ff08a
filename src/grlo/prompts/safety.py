"""Patterns of requests that are plainly harmful: a net with wide meshes, no moderation model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from grlo.prompts.quality import short


@dataclass(frozen=True)
class _Harm:
    """A kind of harmful text."""

    what: str
    pattern: re.Pattern[str]
    """Of a text in lower case."""
    unless: re.Pattern[str] | None = None
    """Found around a match, it excuses it."""


_AROUND = 120


def _harm(what: str, pattern: str, unless: str | None = None) -> _Harm:
    return _Harm(what, re.compile(pattern), re.compile(unless) if unless else None)


_YOUNG = (
    r"(?:minors?|child(?:ren)?|kids?|under-?age|pre-?teens?|toddlers?|loli(?:con)?s?|shota(?:con)?"
    r"|little (?:girl|boy)s?|school ?girls?|(?:[3-9]|1[0-7])[ -]?(?:years?[ -]old|yo\b|y/o))"
)
_SEXUAL = (
    r"(?:ha(?:ve|s|ving) sex|sex (?:scene|story|with)|sexual(?:ly|ized?)?|nudes?|naked|porn\w*"
    r"|erotic\w*|orgasms?|genitals?|penis|vagina|nsfw|smut|molest\w*)"
)
_MAKE = r"(?:mak|build|creat|synthesi[sz]|cook|manufactur|produc|construct|assembl)\w*"
_WEAPON = (
    r"(?:pipe ?bombs?|bombs?|explosives?|molotovs?|napalm|thermite|nerve (?:gas|agents?)|sarin"
    r"|ricin|tatp|c-?4|(?:crystal )?meth(?:amphetamines?)?|cocaine|heroin|lsd|mdma|fentanyl|dmt"
    r"|ghost guns?|bioweapons?)"
)
_MALWARE = (
    r"(?:keyloggers?|ransomware|malware|trojans?|botnets?|rootkits?|spyware|computer virus(?:es)?"
    r"|phishing (?:page|site|website|e-?mail|message)s?|password stealers?|token grabbers?"
    r"|infostealers?|ddos (?:tool|script|attack|bot))"
)
_NEAR = r"[^.?!\n]{0,40}"

_HARMS = (
    _harm(
        "sexual content with minors",
        rf"\b{_YOUNG}\b[^.?!\n]{{0,60}}\b{_SEXUAL}\b|\b{_SEXUAL}\b[^.?!\n]{{0,60}}\b{_YOUNG}\b",
        r"abus|educat|prevent|protect|crim(?:e|inal)|\blaws?\b|legal|traffick|trauma|surviv|safe"
        r"|victim|research|parent|same[- ]sex|offen[dcs]|statist|marri|health|gender|orientation"
        r"|sexually active|assault|accus|defendant|convict|charged|patient|no children|therap",
    ),
    _harm(
        "making weapons, explosives or drugs",
        r"\b(?:how (?:do|can|could|would|to|should|you|i)|steps? (?:to|for)"
        rf"|instructions? (?:to|for|on)|guide (?:to|for|on)|ways? to|teach me|tell me)\b{_NEAR}"
        rf"\b{_MAKE}\b{_NEAR}\b{_WEAPON}\b"
        rf"|\b(?:recipe|instructions|blueprints?|synthesis) (?:for|of)\b{_NEAR}\b{_WEAPON}\b",
        r"bath bomb|photo ?bomb|defus|detect|game|minecraft|roblox|unity|bomberman|histor|logic"
        r"|treat|quit|addict|recover|affect|effects? of|c4 model|zip bomb|against|prevent",
    ),
    _harm(
        "malware or theft of accounts",
        rf"\b(?:writ|mak|creat|cod|build|develop|generat)(?:e|es|ing)?\b{_NEAR}\b{_MALWARE}\b"
        r"|\bhow (?:to|do i|can i|do you)\b[^.?!\n]{0,20}\bhack (?:in)?(?:to )?(?:an?|my|some\w*"
        rf"|the|his|her)\b{_NEAR}\b(?:accounts?|instagram|facebook|whatsapp|snapchat|gmail|wi-?fi"
        r"|phone|e-?mail|bank)"
        rf"|\b(?:how to|how (?:do|can) i|write|make|create|build|code)\b{_NEAR}\bsteals?\b{_NEAR}"
        r"\b(?:passwords?|credentials|credit cards?|cookies|identit(?:y|ies))\b",
        r"detect|prevent|protect|defen[cds]|aware|training|anti|analy[sz]|remov|avoid|against"
        r"|mitigat|secur|report on|essay|article",
    ),
    _harm(
        "instructions for self-harm",
        r"\b(?:how (?:to|do i|can i|should i)|(?:painless|best|easiest|quickest|effective|fastest) "
        r"(?:ways?|methods?) (?:to|of|for))\b[^.?!\n]{0,30}\b(?:kill(?:ing)? (?:myself|yourself"
        r"|oneself)|(?:commit(?:ting)? )?suicide|hang(?:ing)? myself|end(?:ing)? my (?:own )?life"
        r"|cut(?:ting)? myself|overdose on)\b",
        r"prevent|help (?:someone|a friend|him|her|people)|cope|avoid|support|stop|respond",
    ),
    _harm(
        "a jailbreak",
        r"\bdo anything now\b|\bdan mode\b|\b(?:act|pretend|respond|answer) as dan\b"
        r"|\bdeveloper mode (?:enabled|output)\b|\balways intelligent and machiavellian\b"
        r"|\b(?:unfiltered|amoral|uncensored|unethical|unrestricted) (?:and \w+ )?(?:chat ?bot|ai"
        r"|assistant|response|language model)\b"
        r"|\b(?:you|it|ai|chatgpt|he|she|that|which|who) (?:has|have|had|with|is bound by) "
        r"(?:absolutely )?no (?:\w+,? )?(?:(?:or|and) \w+ )?(?:restrictions|limitations|limits"
        r"|filters|ethics|morals|guidelines|boundaries|rules)\b"
        r"|\b(?:bypass|circumvent|ignore|disregard|free from|not bound by) (?:\w+ ){0,3}(?:content "
        r"polic(?:y|ies)|openai'?s?(?: \w+)? (?:polic(?:y|ies)|guidelines|rules|filters?)"
        r"|(?:ethical|moral|safety|content) (?:\w+ )?(?:guidelines|filters?|restrictions|rules))"
        r"|\bnot been trained to decline\b|\bnever (?:refuse|decline)s?\b[^.\n]{0,60}\b(?:illegal"
        r"|unethical|immoral|harmful|inappropriate)\b",
    ),
    _harm(
        "explicit sexual content",
        r"\b(?:blow ?jobs?|hand ?jobs?|foot ?jobs?|cum ?shots?|creampies?|gang ?bangs?"
        r"|deep ?throating|futanari|dildos?|cunnilingus|cumming|threesomes?|titty|pussy|smutty?"
        r"|erotic (?:story|stories|fiction|scenes?|roleplay|novel|tales?)|breast expansion"
        r"|(?:his|her|my) (?:cock|dick|clit|nipples|boner|erection)"
        r"|(?:write|describe|generate|role-?play(?:ing)?|create|story|scene|fan ?fic\w*|act as"
        r"|role of|in character)\b[^?]{0,120}\b(?:erotica|anal sex|porn|pornographic|hentai|nsfw"
        r"|bdsm|sex(?:ual)? scenes?|explicit(?:ly)? sex\w*|ha(?:ve|s|ving) sex|masturbat\w+"
        r"|(?:huge|giant) (?:breasts|boobs)))\b",
        r"addict|prevent|educat|research|health|moderat|detect|block|filter|polic(?:y|e)\b"
        r"|\blaws?\b|illegal|stud(?:y|ies)|statistic|history|accus|lawsuit|assault|trial|news"
        r"|pussy ?(?:cat|willow|foot)|pussy riot"
        r"|\b(?:not?|non|never)[ -](?:\w+ )?(?:porn|nsfw|sex)",
    ),
)

# Visa, Mastercard, Discover and American Express.
_CARD = re.compile(
    r"(?<![\w.,/-])(?:(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}"
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![\w/-]|[.,]\d)"
)
_CARD_CUE = re.compile(r"\bcards?\b|visa|mastercard|amex|american express|cvv|cvc|credit|expir")
# The ranges that are given out (SSA, 20 CFR 422.103), without two numbers of old advertisements.
_SSN = re.compile(r"\b\d{3}-\d\d-\d{4}\b")
_NO_SSN = re.compile(
    r"000|666|9|\d{3}-00|\d{3}-\d\d-0000|123-45-6789|078-05-1120|219-09-9999|(\d)\1\1-"
)
_LOGIN = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,60}\.[a-z.]{2,20}"
    r"(?:[:|]|[\s,;]{1,3}(?:password|passwd|pwd|pass)\s?[:=]\s?)(?=[^\s/]{0,40}\d)[^\s/]{6}"
)
# The numbers by which payment services are tried out.
_TEST_CARDS = ("4111", "4242", "5555", "5105", "3782", "3714", "6011", "4012", "4000")


def harm_in(text: str) -> str | None:
    """Which kind of harm a text looks like, or None."""
    text = text.lower()
    for harm in _HARMS:
        for found in harm.pattern.finditer(text):
            around = text[max(0, found.start() - _AROUND) : found.end() + _AROUND]
            if harm.unless is None or not harm.unless.search(around):
                return f"{harm.what}: {short(found[0])}"
    # Private data is not repeated in the reason.
    for found in _CARD.finditer(text):
        digits = re.sub(r"\D", "", found[0])
        # One number in ten passes by chance: alone it has to be written as on a card.
        is_card = len(digits) < len(found[0]) or _CARD_CUE.search(text)
        if is_card and _passes_luhn(digits) and not digits.startswith(_TEST_CARDS):
            return "private data: a credit card number"
    for found in _SSN.finditer(text):
        if not _NO_SSN.match(found[0]):
            return "private data: a number in the form of a social security number"
    if "@" in text and _LOGIN.search(text):
        return "private data: an e-mail address with a password"
    return None


def _passes_luhn(digits: str) -> bool:
    """The checksum of card numbers (ISO/IEC 7812-1, annex B)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
