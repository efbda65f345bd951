"""The chart's values as its schema describes them, and the tables of its README that are made of that.

helm/tests/run docs
"""

import json
import re

import yaml

import chart

README = chart.CHART / "README.md"
SCHEMA = json.loads((chart.CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((chart.CHART / "values.yaml").read_text())
# Their keys are the configuration's, and its page has them.
ELSEWHERE = {"server.settings", "models.NAME.settings"}


def resolved(schema):
    """With what it refers to."""
    for part in [schema, *schema.get("allOf", [])]:
        if reference := part.get("$ref"):
            found = SCHEMA["definitions"][reference.removeprefix("#/definitions/")]
            return {
                **found,
                **{key: value for key, value in schema.items() if key not in ("allOf", "$ref", "properties")},
            }
    return schema


def leaves(schema, path=""):
    """Every value there is: its path, with NAME for a key that is chosen, [] for an item, and its schema."""
    over = schema.get("properties", {})
    schema = resolved(schema)
    inner = {**schema.get("properties", {}), **over}
    inner |= {"NAME": part for part in schema.get("patternProperties", {}).values()}
    if schema.get("items", {}).get("allOf"):
        inner, path = dict(resolved(schema["items"])["properties"]), path + "[]"
    if not inner or path in ELSEWHERE or "labels" in path.lower().split(".")[-1]:
        yield path, schema
        return
    for key, part in inner.items():
        # A key that is refused here, and Helm's own.
        if part is not False and key != "global":
            yield from leaves(part, f"{path}.{key}" if path else key)


def default(path):
    """What values.yaml says, or None where it says nothing."""
    at = DEFAULTS
    for key in path.split("."):
        if not isinstance(at, dict) or key not in at:
            return None
        at = at[key]
    return at


def stated(path):
    """Whether values.yaml has the key."""
    parent, _, key = path.rpartition(".")
    at = default(parent) if parent else DEFAULTS
    return isinstance(at, dict) and key in at


def kind(schema):
    """What it may be, in a word."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    types = schema.get("type", "object")
    names = {
        "integer": "number",
        "array": "list",
        "object": "map",
        "boolean": "true or false",
        "null": "null",
        "number": "number",
        "string": "text",
    }
    return " or ".join(names[t] for t in ([types] if isinstance(types, str) else types) if t != "null")


def table(paths):
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, schema in paths:
        said = default(path)
        shown = f"`{json.dumps(said, ensure_ascii=False)}`" if stated(path) else "–"
        meaning = schema["description"]
        if "enum" in schema:
            meaning += f": {kind(schema)}"
        lines.append(f"| `{path}` | {shown} | {meaning} |")
    return "\n".join(lines)


def tables():
    """The README's tables by the heading that they stand under."""
    found = list(leaves(SCHEMA))
    groups = {
        "Models": lambda path: path.split(".")[0] in ("models", "hub", "downloader"),
        "Server": lambda path: path.split(".")[0] in ("server", "service", "grpcRoute"),
        "Pools": lambda path: path.startswith("poolDefaults") or path == "pools[].name",
        "Monitoring": lambda path: path.startswith("monitoring"),
    }
    made, rest = {}, [
        (path, schema) for path, schema in found if not path.startswith("pools[]") or path == "pools[].name"
    ]
    for heading, belongs in groups.items():
        made[heading] = table([item for item in rest if belongs(item[0])])
        rest = [item for item in rest if not belongs(item[0])]
    made["Everything else"] = table(rest)
    return made


def written(text):
    """The README with its tables made anew."""
    for heading, made in tables().items():
        pattern = re.compile(rf"(\n### {heading}\n(?:(?!\n##)[\s\S])*?\n)\| value \|[^\n]*\n(?:\|[^\n]*\n)*")
        text, count = pattern.subn(lambda match: match[1] + made + "\n", text)
        assert count == 1, f"README.md has no table under ### {heading}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
