"""How many benchmark problems an overlap audit finds again when they are hidden in a prompt set.

200 problems are planted in every disguise of `grlo.prompts.planting`, and 200 as paraphrases by
hand (tests/prompts/paraphrases.jsonl); the rate of false alarms is measured on a set that is
known to be clean by reading.

    python bench/planted_leaks.py DATA CLEAN.jsonl [--embed MODEL]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grlo.benchmarks.spec import DataPlaces
from grlo.prompts.audit import Auditor, audited_text
from grlo.prompts.embeddings import DocumentEmbeddings
from grlo.prompts.examples import parse_example, read_any
from grlo.prompts.planting import Recall, planted_recall, recall
from grlo.stages.audited import load_against

PARAPHRASES = Path(__file__).parent.parent / "tests" / "prompts" / "paraphrases.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with data files of benchmarks")
    parser.add_argument("clean", help="prompts without overlap")
    parser.add_argument("--embed", help="sentence encoder; default: shared words")
    parser.add_argument("--suite", default="full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    against = load_against([options.suite], DataPlaces(folder=options.data))
    encoder = None
    if options.embed:
        encoder = DocumentEmbeddings(options.embed, [own.text for own in against.documents])
    auditor = Auditor(against.documents, encoder=encoder)
    clean = [audited_text(parse_example(row)) for row in read_any(options.clean)]
    recalls = planted_recall(auditor, carriers=[text.asked for text in clean], seed=options.seed)
    recalls["paraphrased by hand"] = _paraphrased(auditor)
    levels = sorted({level for own in recalls.values() for level in own.by_level})
    print(f"| planted | n | found, % | to drop, % | {' | '.join(levels)} |")
    print("|---" * (4 + len(levels)) + "|")
    for name, own in recalls.items():
        counts = [own.found, own.dropped, *(own.by_level.get(level, 0) for level in levels)]
        shares = " | ".join(f"{100 * count / own.num_planted:.1f}" for count in counts)
        print(f"| {name} | {own.num_planted} | {shares} |")
    findings = auditor.findings(clean)
    hit = sum(bool(finding.hits) for finding in findings)
    dropped = sum(any(hit.verdict == "drop" for hit in own.hits) for own in findings)
    print(
        f"false alarms on {len(clean)} clean rows: {hit} rows with a hit "
        f"({100 * hit / len(clean):.2f} %), {dropped} to drop ({100 * dropped / len(clean):.2f} %)"
    )


def _paraphrased(auditor: Auditor) -> Recall:
    rows = [json.loads(line) for line in PARAPHRASES.read_text(encoding="utf-8").splitlines()]
    questions = {
        (document.benchmark, document.item): document
        for document in auditor.documents
        if document.part == "question"
    }
    planted = [questions[row["benchmark"], row["item"]] for row in rows]
    return recall(auditor, planted, [row["text"] for row in rows])


if __name__ == "__main__":
    main()
