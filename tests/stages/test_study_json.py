"""The findings as JSON: everything but the transcripts, readable by any parser."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

from grlo.evaluation.stats import Estimate
from grlo.stages.study_json import FORMAT, findings_json
from grlo.studies.findings import ArmFindings, StudyFindings
from made_up_study import make_study, poisoned


def test_every_field_but_the_transcripts_is_there_by_its_name():
    found = findings_json(make_study(per_benchmark=1))
    names = {item.name for item in fields(StudyFindings)} - {"transcripts"}
    assert set(found) == names | {"format"}
    assert found["format"] == FORMAT
    assert set(found["arms"][1]) == {item.name for item in fields(ArmFindings)}


def test_it_reads_back_as_it_was_written():
    found = findings_json(make_study(per_benchmark=1))
    text = json.dumps(found, allow_nan=False, ensure_ascii=False)
    assert json.loads(text) == found
    own = make_study().arms[1]
    assert json.loads(text)["arms"][1]["domains"]["code"]["value"] == own.domains["code"].value
    assert json.loads(text)["arms"][1]["onsets"]["0"] is None


def test_numbers_that_json_does_not_have_are_null():
    findings = make_study(per_benchmark=0)
    endless = Estimate(0.5, math.inf, -math.inf, math.inf)
    arm = replace(findings.arms[0], domains={"code": endless}, correlation=math.nan)
    (found,) = findings_json(replace(findings, arms=(arm,)))["arms"]
    assert found["domains"]["code"] == {
        "value": 0.5,
        "standard_error": None,
        "low": None,
        "high": None,
    }
    assert found["correlation"] is None


def test_hostile_texts_can_be_written_as_utf8_and_rewrite_no_terminal():
    text = json.dumps(findings_json(poisoned(make_study(per_benchmark=0))), ensure_ascii=False)
    text.encode("utf-8")
    assert not set("\u202e\x1b\x9b\u2028") & set(text)
