#!/usr/bin/env python3
"""Renders cases.json with the Python library transformers and writes expected.json. Run it where transformers is."""

import json
import pathlib
import re
from datetime import datetime as real_datetime

import jinja2
import transformers.utils.chat_template_utils as utils

HERE = pathlib.Path(__file__).parent


class Datetime(real_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 9, 5, 3)


def render(case):
    variables = {**case["roles"], **case.get("variables", {})}
    source = (HERE / case["template"]).read_text(encoding="utf-8")
    try:
        rendered, _ = utils.render_jinja_template(
            [case["messages"]],
            tools=case.get("tools"),
            chat_template=source,
            add_generation_prompt=case["add_generation_prompt"],
            **variables,
        )
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        return {"refused": str(error)}


utils._compile_jinja_template.cache_clear() if hasattr(utils._compile_jinja_template, "cache_clear") else None
import datetime as module

module.datetime = Datetime
utils.datetime = Datetime
cases = json.loads((HERE / "cases.json").read_text(encoding="utf-8"))
expected = [{"name": case["name"], **render(case)} for case in cases]
text = json.dumps(expected, indent=1, ensure_ascii=False)
(HERE / "expected.json").write_text(text + "\n", encoding="utf-8")
print(len(expected), "cases", sum("refused" in case for case in expected), "refused")
