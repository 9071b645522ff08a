"""The rules of `grlo.prompts.composition`: what words speak for which task, and how loudly."""

from __future__ import annotations

import re
from dataclasses import dataclass

_POLITE = (
    r"(?:(?:hi|hello|hey|please|pls|plz|kindly|now|ok(?:ay)?|so|also|first|good day|\u0645\u0646 \u0641\u0636\u0644\u0643)[,.! ]+)*"
    r"(?:(?:can|could|would|will) (?:you|u) (?:please |pls |help me (?:to )?|also )*"
    r"|i (?:want|need|would like|'d like|wish) (?:you )?(?:to )?|(?:please )?help me (?:to )?"
    r"|let'?s |help (?=write|me)|you (?:have to|must|should|will) )?(?:please )?(?:just )?"
)
_A = r"(?:an? |the |me |us |my |our |some |one |this |that |\d+ )*"
# Not across a preposition: "an analysis of the framework" is no framework.
_ADJECTIVES = r"(?:(?!(?:of|for|on|about|to|with|that|in|how|by|from)\b)[\w'\u2019,%-]+ ){0,7}?"


@dataclass(frozen=True)
class Cue:
    """A rule."""

    task: str
    name: str
    weight: float
    pattern: re.Pattern[str]
    at_start: bool = False
    """Counts only where the turn begins with it."""


_BOUNDARY = r"(?:^|[.!?:;,\n)\]\"\u201d]\s+)(?:and |then |so |now |please |also )*"
"""Where a request may begin inside a text."""


def _cue(task: str, name: str, weight: float, pattern: str, *, start: bool = False) -> Cue:
    pattern = rf"\s*[\"'“*#-]*{_POLITE}(?:{pattern})" if start else pattern
    return Cue(task, name, weight, re.compile(pattern, re.IGNORECASE), start)


_TEXTS = (
    r"(?:(?:short |love |fan ?|back ?)?stor(?:y|ies)|poems?|haikus?|sonnets?|limericks?|songs?|lyrics"
    r"|raps?|scripts?|screenplays?|scenes?|dialogues?|conversations?|monologues?|fan ?fic\w*|novels?"
    r"|chapters?|essays?|blog(?: ?posts?)?|articles?|letters?|e-?mails?|speech(?:es)?|tweets?|posts?"
    r"|captions?|slogans?|taglines?|titles?|names? for|bios?|biograph(?:y|ies)|profiles?"
    r"|(?:product |meta |mets )?descriptions? (?:for|with|of (?:a |an )?(?:product|character|\d))"
    r"|ad(?:vert)?s?\b|commercials?|reviews? (?:of|for)|headlines?|quotes|jokes?|puns?|prompts?"
    r"|characters?|plots?|parod(?:y|ies)|crossovers?|episodes?|documentar(?:y|ies)|press release"
    r"|resume|cv|reports?|literature reviews?|ideas?|newsletters?|greetings?|cover letter|scenario|introduction|conclusion|paragraphs?|thesis statement|vignette"
    r"|summary for (?:my|a) (?:linkedin|profile)|invitation|message|warrant|quiz|questions)"
)
_KNOWLEDGE = (
    r"(?:analys[ie]s|overview|explanations?|summary of|comparisons?|reviews?|explorations?"
    r"|examination|descriptions?|account|discussion|evaluation|assessment|interpretation|insights?"
    r"|understanding|breakdown|definition|history|research brief|list of|information)"
)
_PLANS = (
    r"(?:(?:step[- ]by[- ]step )?guid(?:e|ance)|(?:\w+ )?plans?|roadmaps?|strateg(?:y|ies)|checklists?"
    r"|tutorials?|itinerar(?:y|ies)|recipes?|curricul(?:um|a)|frameworks?|schedules?|proposals?"
    r"|instructions|tips|advice|recommendations|suggestions|routine|workout|protocol)"
)

CUES: tuple[Cue, ...] = (
    # Knowledge.
    _cue(
        "explain",
        "verb",
        2.5,
        r"(?:explain|describe|discuss|analy[sz]e|compare|contrast|define|identify|examine|evaluate"
        r"|explore|outline the (?:history|differences)|tell me|list|name|give (?:me )?examples?"
        r"|summari[sz]e (?:the )?(?:current|latest|history|main|key|recent)|answer|what do you know)\b",
        start=True,
    ),
    _cue(
        "explain",
        "question",
        2.0,
        r"(?:what|why|who|whom|whose|when|where|which|how (?:does|do(?! i\b)|did|is|are|was|were|has"
        r"|have|long|old|far|big|common|could|would|might)|is|are|was|were|does|do(?= \w+ \w)|did|has|have|should|would|if"
        r"|can (?!you|u\b|i\b)|how (?:many|much|often))(?:'s|\u2019s|s)?\b",
        start=True,
    ),
    _cue(
        "explain",
        "account",
        3.0,
        rf"(?:provide|give|offer|present|create|write|conduct|produce|make|develop|include)?\s*{_A}"
        rf"{_ADJECTIVES}{_KNOWLEDGE}\b",
        start=True,
    ),
    _cue(
        "explain",
        "account inside",
        2.0,
        rf"\b(?:detailed|comprehensive|in-depth|thorough|historical|critical)\b[^.?!\n]{{0,60}}\b"
        rf"{_KNOWLEDGE}\b",
    ),
    _cue(
        "explain",
        "verb inside",
        1.5,
        rf"{_BOUNDARY}(?:explain|describe|discuss|analy[sz]e|compare|define|list|name|answer|tell)\b"
        r"|\bexplain (?:please|it|this|why|how)\b|\btrue or false\b|\bmeaning\b",
    ),
    _cue("explain", "choice", 2.0, r"\bwhich of (?:the following|these)\b"),
    _cue("explain", "asks", 1.0, r"\?\s*$"),
    _cue(
        "explain", "a question inside", 0.7, r"\b(?:what|why|which|who|when|where|how)\b[^?\n]*\?"
    ),
    _cue("explain", "gives", 1.0, r"(?:provide|give|show|find|create a table)\b", start=True),
    _cue(
        "explain",
        "in other languages",
        2.0,
        r"什么|为什么|介绍|解释|请问|почему|объясни|расскажи|\bqué\b|\bpor qu[eé]\b|\bexplica|\bpourquoi\b"
        r"|\bqu'est-ce\b|\bwarum\b|\bwas ist\b|\berkläre|\bo que\b|무엇|설명|なぜ|とは",
    ),
    _cue(
        "explain", "difference", 1.0, r"\bdifferences? between\b|\bmeaning of\b|\bwhat is meant\b"
    ),
    # What to do.
    _cue(
        "plan",
        "how to",
        4.0,
        r"how (?:to|do i|can i|should i|do you|could i|would i|can we|do we|should we|would you)\b"
        r"|what (?:is|are|'s) the best (?:way|method|practice)|give me (?:some )?(?:tips|advice)"
        r"|suggest|recommend|plan|what should i",
        start=True,
    ),
    _cue(
        "plan",
        "a plan",
        4.0,
        rf"(?:provide|give|offer|create|write|make|design|develop|draft|prepare|build|generate"
        rf"|outline)\s+{_A}{_ADJECTIVES}{_PLANS}\b",
        start=True,
    ),
    _cue("plan", "best", 1.5, r"(?:the )?best\b|top \d+", start=True),
    _cue("plan", "ways", 3.0, r"(?:write|list|give|tell me)\b.{0,30}\bways to\b", start=True),
    _cue(
        "plan",
        "program",
        2.0,
        r"\b(?:\d+[- ]day|weekly|workout|study|meal) (?:program|plan|schedule)",
    ),
    _cue("plan", "step by step", 1.5, r"\bstep[- ]by[- ]step (?:guid|plan|process|instruct)"),
    _cue("plan", "designs", 2.5, rf"(?:design|develop|devise) {_A}{_ADJECTIVES}\w+", start=True),
    _cue(
        "plan", "fix it", 1.5, r"\bhow (?:can|do|to|should) (?:i |we )?(?:fix|solve|repair|avoid)\b"
    ),
    _cue("plan", "cook", 2.0, r"\b(?:recipe|meal plan|ingredients)\b"),
    # Texts of one's own.
    _cue(
        "write",
        "verb and text",
        4.5,
        rf"(?:write|compose|draft|create|generate|make|produce|give|come up with|craft|prepare"
        rf"|brainstorm|imagine|invent|think of|continue|provide|detail|develop|rap)\s+(?:up )?{_A}"
        rf"{_ADJECTIVES}{_TEXTS}(?![\w-])",
        start=True,
    ),
    _cue("write", "write", 2.5, r"(?:write|compose|draft|craft|imagine|brainstorm)\b", start=True),
    _cue(
        "write",
        "asks for a text",
        2.0,
        rf"\b(?:write|compose|create|generate|make|craft|draft)\s+(?:up )?{_A}{_ADJECTIVES}{_TEXTS}"
        r"(?![\w-])",
    ),
    _cue(
        "write", "verb inside", 2.0, rf"{_BOUNDARY}(?:write|compose|draft|craft|imagine|narrate)\b"
    ),
    _cue("write", "idea", 2.0, r"(?:an? )?(?:ideas?|\w+ idea|names?) (?:for|of)\b", start=True),
    _cue(
        "write",
        "fiction",
        1.5,
        r"\b(?:fan ?fic\w*|crossover|protagonist|screenplay|in the style of|setting is|plot twist"
        r"|happy ending|genres?:|characters?:|anime|alternate universe|\bAU\b|narrator|react to)\b"
        r"|\w+ x [A-Z]\w+",
    ),
    _cue(
        "write",
        "a scene",
        3.0,
        r"[\[(][^)\]]{6,}|[\w\[\]]{2,20}: ?(?:\([^)]*\) ?)?[\"\u201c]|(?:a |an )?(?:\w+ )?(?:script|essay|article|e-?mail|caption|scene|story"
        r"|short story|poem|song|dialogue)\b",
        start=True,
    ),
    _cue("write", "dialogue", 2.5, r"\n\s*[\w\[\]?]{2,20}: ?(?:\([^)\n]{1,60}\) ?)?[\"\u201c]"),
    _cue(
        "write",
        "as a writer",
        3.0,
        r"\bact as an? (?:\w+ )?(?:screen ?writer|writer|novelist|story ?teller|copy ?writer|poet"
        r"|comedian|content writer|rapper|lyricist|journalist)\b",
    ),
    _cue("write", "reaction", 2.0, r"\breact(?:s|ion|ions|ing)?\b|\bwhat if\b"),
    _cue("write", "creates", 1.0, r"(?:create|generate|make|come up with)\b", start=True),
    _cue(
        "write",
        "in other languages",
        3.0,
        r"写一|写个|小说|书名|诗|напиши (?!код|програм|функц|скрипт)|сочини|рассказ|\bescrib[ae]|\bcuento\b|\bpo[eè]m[ae]?\b|\bécris"
        r"|\brédige|\bschreib|\bgedicht|\bescrev|작성|써줘|가사|소설|書いて|物語|\bviết\b|\bkịch bản\b",
    ),
    _cue("write", "image prompt", 2.5, r"\bmidjourney\b|\bstable diffusion\b|\bprompt generator\b"),
    _cue(
        "write",
        "marketing",
        1.5,
        r"\b(?:seos?|keywords?|hashtags?|linkedin|instagram|etsy|tweets?|marketing|advertis\w+)\b",
    ),
    # Work on a text.
    _cue(
        "rewrite",
        "verb",
        5.0,
        r"(?:re-?write|re-?draft|re-? ?phrase|para ?phrase|translate|proof ?read|correct|edit|improve|polish"
        r"|shorten|simplify|fix (?:the |my )?(?:grammar|spelling|english)|revise|reword|reformulate"
        r"|reframe|summari[sz]e|classify|extract|convert|transcribe|expand (?:on )?(?:this|the)"
        r"|make (?:it|this)[\w ]* (?:better|shorter|longer|more|sound|less|simple|clear|professional)"
        r"|continue (?:this|the) (?:text|story|paragraph)|tl;?dr|check (?:the |my )?(?:grammar"
        r"|spelling)|turn|change it|transform|rectify|re-?format|re-?arrange|categori[sz]e|repeat this|say (?:it )?better"
        r"|mark the following|break down \"|modify the text|swap|sort|match|write (?:it|this)\b|write in (?:simple|good|better|proper)|check (?:this|my english)|review (?:the|this|my)|give one word|fill in)\b",
        start=True,
    ),
    _cue(
        "rewrite",
        "this text",
        2.0,
        r"\b(?:re-?write|rephrase|paraphrase|translate|proofread|correct|edit|improve|polish"
        r"|shorten|simplify|revise|reword|summari[sz]e) (?:and \w+ )?(?:this|it|that|these|the (?:above"
        r"|below|following|text|passage|paragraph|sentences?|article|e-?mail|letter|news))\b",
    ),
    _cue(
        "rewrite",
        "check",
        3.0,
        r"\bcheck (?:the |my )?(?:grammar|english|spelling)\b|\bgrammar check\b",
    ),
    _cue(
        "rewrite",
        "verb inside",
        3.0,
        rf"{_BOUNDARY}(?:re-?write|rephrase|paraphrase|translate|proofread|polish|shorten|revise|reword"
        r"|summari[sz]e|classify|categori[sz]e|correct (?:the|this|it|my))\b",
    ),
    _cue("rewrite", "grammar", 1.5, r"\bgramm?ar\b|\bgrammatical|语法"),
    _cue(
        "rewrite",
        "summary",
        4.0,
        r"\bsummary of (?:the (?:following|text|article|above|passage|book|chapter|section)|this|it\b"
        r"|section)|\b(?:from|in) (?:the|this) (?:following )?sentence\b",
    ),
    _cue(
        "rewrite",
        "decide about a text",
        2.5,
        r"\b(?:given|following|this) (?:a )?(?:tweet|sentence|review|text|statement|comment)s?\b[^.\n]"
        r"{0,60}\b(?:decide|classify|whether|identify|label|positive|sentiment)\b",
    ),
    _cue(
        "rewrite",
        "a text is given",
        1.5,
        r"\b(?:this|the following|below|given) (?:\w+ )?(?:text|passage|paragraph|sentences?|article"
        r"|e-?mail|essay|excerpt|draft|abstract|content)\b|\bin other words\b",
    ),
    _cue(
        "rewrite",
        "in other languages",
        5.0,
        r"翻译|译成|中译英|英译中|润色|改写|перев(?:еди|ести)|исправь|tradu[cz]|übersetz|\bresum(?:e|a|ir|en)\b|\bcorrig"
        r"|更清晰|\u062a\u0631\u062c\u0645|修改(?:以下|下面|这)|优化(?:以下|下面|这)|번역|翻訳|dịch|verbesser",
    ),
    # Programs.
    _cue(
        "code",
        "language",
        2.0,
        r"\b(?:python|java(?:script)?|typescript|c\+\+|cpp|c#|yaml|golang|rust|kotlin|swift(?:ui)?|php|ruby"
        r"|matlab|sql|mysql|postgres\w*|html5?|css|react|angular|vue|node(?:\.?js)?|django|flask"
        r"|fastapi|laravel|spring boot|unity|arduino|vba|dax|bash|powershell|docker|kubernetes|regex"
        r"|pandas|numpy|pytorch|tensorflow|mongo(?:db|ose)?|graphql|flutter|jquery|wordpress|excel"
        r"|power bi|cypress|selenium|puppeteer|opencv|assembly|verilog|solidity|apache|leetcode)\b",
    ),
    _cue(
        "code",
        "program",
        2.0,
        r"\b(?:codes?|coding|programs? (?:that|to|which|in)"
        r"|functions? (?:that|to|which|takes)|algorithms?|api|compil(?:e|er|es|ed|ing|ation)|debug\w*|stack ?trace|exceptions?"
        r"|plug-?in|app\.py|endpoint|repository|linux|terminal|command line|database|widget|backend"
        r"|frontend|developer|software|source code|unit tests?|data ?frames?|dataset|df|columns?|yml|webhook|config)\b",
    ),
    _cue(
        "code",
        "work on code",
        3.0,
        r"\b(?:write|create|implement|fix|modify|update|refactor|optimi[sz]e|debug|complete|convert"
        r"|explain|change|add|need|generate|build|make|give me)\b[^.?!\n]{0,60}\b(?:code|function"
        r"|program|class|query|regex|algorithm|plug-?in|app|macro|component|index|sql|formula)\b",
    ),
    _cue(
        "code", "error", 1.5, r"\b\w*(?:Error|Exception)\b|\berrors?\b.{0,40}\bline \d|undefined\b"
    ),
    _cue(
        "code",
        "in other languages",
        3.0,
        r"\b(?:python|shell|bash|java\w*|sql|node) scripts?\b|代码|程序|函数|コード|\u043a\u043e\u0434(?:\u0435|\u0430)?\b|функци|c[óo]digo|programm?a\b|fonction\b|скрипт|\bscript en\b",
    ),
    # Calculation and proof.
    _cue(
        "math",
        "verb",
        3.0,
        r"(?:calculate|compute|solve|prove|derive|evaluate the|integrate|differentiate|simplify the"
        r"|determine the (?:value|number|probability|net)|find (?:the|all|a|an) (?:value|number|sum|area"
        r"|volume|dimensions|probability|equation|derivative|integral|solution|minimum|maximum|smallest"
        r"|largest|length|distance))\b",
        start=True,
    ),
    _cue(
        "math",
        "asks for a quantity",
        2.5,
        r"\b(?:calculate|compute|determine|find|what (?:is|was|are|will be)|how (?:many|much))\b"
        r"[^?\n]{0,120}\b(?:price|value|probability|npv|irr|emf|cost|worth|area|volume|interval|mean"
        r"|variance|deviation|rate|distance|speed|velocity|mass|concentration|degrees of freedom|yield"
        r"|bits?|ratio|percentage|total|sum|number of|formula)\b",
    ),
    _cue(
        "math",
        "mathematics",
        2.0,
        r"\b(?:equations?|theorem|lemma|integral|derivative|matri(?:x|ces)|polynomial|triangle|vectors?"
        r"|probability|hypothesis test|standard deviation|confidence interval|recurrence relation"
        r"|cash flows?|net present value|discount rate|yield to maturity|mol/l|modulo|eigenvalues?"
        r"|control chart|mathematical (?:model|puzzle|proof)|tetrahedron|arithmetic|calculus)\b"
        r"|数理模型|方程",
    ),
    _cue(
        "math", "formula", 1.5, r"\$[^$\n]{1,200}\$|\\frac|\\sum|\d\s*[=<>≤≥]\s*-?\d|[a-z]\^\{?\d"
    ),
    _cue("math", "calculate", 2.5, r"\bcalculat(?:e|ing)\b|\bsolve for\b|\bdetermine the length\b"),
    _cue(
        "math",
        "units",
        2.0,
        r"\d ?(?:cm|mm|km|kg|m/s|m s-1|mol|n/m|volts?|ohms?|joules?|newtons?|kpa|hz|degrees|\u00b0)\b"
        r".{0,400}\b(?:how (?:far|fast|much|long)|what is|calculate|determine|find)\b",
    ),
    _cue(
        "math", "verb inside", 1.5, rf"{_BOUNDARY}(?:solve|determine|find the|compute|show that)\b"
    ),
    _cue(
        "math",
        "supposes",
        1.0,
        r"(?:suppose|let [a-z] |given (?:two|the|that|sets)|for a finite)",
        start=True,
    ),
    _cue(
        "math",
        "signs",
        1.5,
        r"[\u2208\u2264\u2265\u220f\u2211\u2220\u0394\u03c0]|\\\(|\bpositive integers?\b",
    ),
    _cue(
        "math",
        "in other languages",
        4.0,
        r"证明|计算|求解|概率|вычисли|докажи|реши |\bcalcula\b|\bderiv(?:ar|ada)\b|\bberechne|\bcalcule[rz]?\b"
        r"|\bresuelv|계산|計算",
    ),
    _cue(
        "math",
        "proof",
        3.0,
        r"\b(?:prove (?:that|your|or)|show that|proof of)\b",
    ),
    _cue(
        "math",
        "puzzle",
        2.5,
        r"\b(?:puzzle|riddle|brain ?teaser)\b|\bhas (?:two|three|four|\d+) (?:sons|sisters|brothers)\b",
    ),
    # Company.
    _cue(
        "chat",
        "greeting",
        2.5,
        r"(?:hi|hello|hey|good (?:morning|evening)|thanks|thank you|how are you|who are you|are you"
        r"|do you (?:like|think|feel|know me|have feelings))\b[^\n]{0,60}$",
        start=True,
    ),
    _cue(
        "chat",
        "role-play",
        4.0,
        r"\brole ?play (?:as|with)\b|\b(?:pretend|act) (?:to be|like|as) (?:my|me)\b|\blet'?s (?:talk|chat"
        r"|play)\b|\bwe are playing\b|\bi roll to\b|\btalk to me\b",
    ),
    _cue(
        "chat",
        "of the assistant",
        4.0,
        r"\bhow are you\b|\bwho are you\b|\bare you (?:human|an ai|alive)\b",
    ),
    _cue(
        "chat", "about oneself", 1.5, r"\bi (?:feel|am) (?:so )?(?:sad|lonely|bored|happy|tired)\b"
    ),
)

CONSTRAINTS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "length": r"\b\d[\d,.]*(?:\s*(?:-|to|\u2013)\s*\d+)?[- ]?(?:\+ )?(?:words?|wrds?|characters?|letters|sentences?"
        r"|paragraphs?|pages?|lines?|verses?|stanzas?|bullet|minutes? long|hour long)\b"
        r"|\b(?:one|two|three|four|five|single) (?:sentences?|paragraphs?|words?|lines?)\b"
        r"|\b(?:one|1)[- ]word\b|\bno (?:more|less|longer) than\b|\bkeep (?:it )?short\b",
        "count": r"\b(?:list|name|give(?: me)?|write(?: me)?|provide|generate|create|top|suggest|tell me"
        r"|brainstorm|list of|using|at least|exactly)\s+(?:the |a |of |prompt )*(?:\d+|five|ten|twenty)\b"
        r"(?! ?(?:%|percent|-?year|hour|minutes?\b))|\bname \d+\b",
        "format": r"\b(?:as|in|into|using) (?:an? )?(?:the form of (?:an? )?)?(?:\w+ )?(?:bullet(?:s| points?| list)"
        r"|table|json|markdown|csv|xml|yaml|html format|paragraph form|list format|numbered list|code block"
        r"|dot points)\b|\b(?:main and sub|sub-?)\s?headings?\b|\bfollowing (?:format|structure|points|template)\b"
        r"|\bformat (?:of|should|must|as|your|:)|\busing the template\b|\bformatting below\b|\bMLA\b|\bAPA\b",
        "person": r"\b(?:in |from )?(?:the )?(?:first|third|second)[- ]person\b(?! linkedin)",
        "prohibition": r"\b(?:do not|don'?t|dont|dnt|never|must not|should not|without (?:using|any|including))"
        r"\s+(?:\w+ )?(?:include|use|mention|write|add|explain|offer|repeat|break|provide|give|type|say|list"
        r"|describe|narrat\w+|a |any |looping|html)\b|\bdo not use\b|\bnot (?:include|mention|use)\b",
        "demand": r"\b(?:must|should|has to|have to|needs? to) (?:only )?(?:include|contain|have|be (?:written|in|at"
        r"|between)|use|start|end|begin|follow|rhyme)\b|\b(?:each|every) (?:answer|sentence|line|paragraph|item)\b"
        r"|\b(?:reply|respond|answer) with\b|\bmust be written\b|\bonly (?:reply|respond|answer|output|use|with|the|female|rhyme)\b|\breply only\b"
        r"|\buse exact\b|\buse (?:simple|\w+ simple|british|american) \w+\b",
    }.items()
}

DESIGNS = re.compile(
    r"\b(?:design|develop|devise|build|create|draft|propose|prepare)\b.{0,80}\b(?:plans?|frameworks?"
    r"|strateg\w+|programs?|curricul\w+|lessons?|systems?|proposals?|roadmaps?|polic\w+|recipe)\b"
    r"|\b(?:policy (?:framework|proposal)|lesson plan|care plan|plan for)\b|\brecipe\b",
    re.IGNORECASE | re.DOTALL,
)
STRUGGLE = re.compile(
    r"\b(?:errors?|bugs?|debug\w*|fix|not work\w*|doesn'?t work|wrong|fail\w*|issue|problem|optimi[sz]\w+"
    r"|efficien\w+|complexity|algorithm|shortest|minimal|maximum|why)\b|无效|错误|计算出",
    re.IGNORECASE,
)
PUZZLE = re.compile(
    r"\b(?:riddle|puzzle|logic(?:al)? (?:problem|puzzle)|deduce|prove|given (?:that|the following"
    r" (?:facts|data|scenario|case))|based on the (?:given )?(?:scenario|case))\b",
    re.IGNORECASE,
)
FORMULA = re.compile(r"\bderiv(?:e|ation) (?:of )?the\b|\bworked example\b", re.IGNORECASE)
FENCE = re.compile(r"```|`[^`\n]{3,}`\s*\n`")
CODE_LINE = re.compile(
    r"[;{}]\s*$|^\s*(?:#include|import \w|from \w+ import|def \w+\(|class \w+[:({]|const |let |var "
    r"|function\b.*\(|return\b|public |private |static |using |<\/?[a-z]+[ >]|SELECT |INSERT |\$\w+ ?="
    r"|\w+\(.*\);?$|if ?\(|for ?\(|while ?\(|%[a-z]\.)|^\s*[\w.\[\]]+ ?[-+*/]?= ?[\w\"'\[{(]"
)
