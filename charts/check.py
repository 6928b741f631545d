"""Checks rendered manifests: against the API server's own OpenAPI, and for rights that Flotilla must never ask for.

usage: check.py manifests FILE...   every document has a schema and fits it; no role asks for too much
       check.py pods FILE...        prints the pods that the manifests would make, for a dry run in a restricted namespace
       check.py readme CHART        the README's table of values and values.yaml name the same values and defaults

KUBECTL is the command that reaches the API server.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml

POWERFUL_VERBS = {"*", "escalate", "bind", "impersonate", "approve", "sign"}
# Resources whose reading or writing is more than an operator of this kind may have; None: any verb.
FORBIDDEN = {
    "*": None,
    "secrets": None,
    "serviceaccounts/token": None,
    "nodes/proxy": None,
    "pods/exec": None,
    "pods/attach": None,
    "pods/portforward": None,
    "pods/ephemeralcontainers": None,
    "pods": {"create", "update", "patch", "delete", "deletecollection"},
    **{r: {"create", "update", "patch", "delete"} for r in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")},
}


def main(command, *arguments):
    problems = {"manifests": manifests, "pods": pods, "readme": readme}[command](*arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def manifests(*files):
    checked, problems = 0, []
    found = list(documents(files))
    may_patch_pods = any(chooses_pods(document) for _, document in found)
    for where, document in found:
        checked += 1
        problems += [f"{where}: {p}" for p in schema_problems(document) + role_problems(document, may_patch_pods)]
    if not checked:
        problems.append("no manifest to check")
    return problems


def pods(*files):
    found = []
    for where, document in documents(files):
        if document["kind"] == "Pod":
            found.append(document)
        elif "template" in document.get("spec", {}):
            template = document["spec"]["template"]
            metadata = {**template["metadata"], "name": document["metadata"]["name"], "namespace": document["metadata"]["namespace"]}
            found.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    json.dump({"apiVersion": "v1", "kind": "List", "items": found}, sys.stdout)
    return [] if found else ["no pod in these manifests"]


def readme(chart):
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", (Path(chart) / "README.md").read_text(), re.MULTILINE)
    documented = {name: yaml.safe_load(value) for name, value in rows}
    actual = dict(leaves(yaml.safe_load((Path(chart) / "values.yaml").read_text())))
    problems = [f"README.md lacks the value {name}" for name in actual.keys() - documented.keys()]
    problems += [f"README.md names {name}, which values.yaml lacks" for name in documented.keys() - actual.keys()]
    for name in actual.keys() & documented.keys():
        if actual[name] != documented[name]:
            problems.append(f"README.md says that {name} is {documented[name]!r}, values.yaml says {actual[name]!r}")
    return problems


def documents(files):
    for file in files:
        for document in yaml.safe_load_all(Path(file).read_text()):
            if document:
                yield f"{Path(file).name}: {document.get('kind')} {document.get('metadata', {}).get('name')}", document


def leaves(value, path=""):
    """The values that a user sets one by one; an empty map is a leaf too."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def chooses_pods(document):
    """Whether it is an operator that was told to choose whom a scale-down takes: the one reason to patch pods."""
    containers = document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    wanted = {"name": "FLOTILLA_POD_DELETION_COST", "value": "true"}
    return any(wanted in container.get("env", []) for container in containers)


def role_problems(document, may_patch_pods):
    problems = []
    if document["kind"] not in ("Role", "ClusterRole"):
        return problems
    for rule in document["rules"]:
        verbs, resources = set(rule["verbs"]), rule.get("resources", [])
        if "*" in rule.get("apiGroups", []) or rule.get("nonResourceURLs"):
            problems.append("a rule has a wildcard API group or a URL")
        problems += [f"a rule has the verb {verb}" for verb in sorted(verbs & POWERFUL_VERBS)]
        for resource in resources:
            forbidden = FORBIDDEN.get(resource, set()) if not resource.startswith("*") else None
            if resource == "pods" and may_patch_pods:
                forbidden = forbidden - {"patch"}
            if forbidden is None or verbs & forbidden:
                problems.append(f"a rule allows {','.join(sorted(verbs))} on {resource}")
    return problems


def schema_problems(document):
    version, kind = document["apiVersion"], document["kind"]
    group, _, short = version.rpartition("/")
    openapi = openapi_of(f"apis/{version}" if group else f"api/{version}")
    wanted = {"group": group, "version": short, "kind": kind}
    for name, schema in (openapi or {}).get("components", {}).get("schemas", {}).items():
        if wanted in schema.get("x-kubernetes-group-version-kind", []):
            validator = jsonschema.Draft4Validator({"$ref": f"#/components/schemas/{name}", "components": openapi["components"]})
            return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(document)]
    return [f"the API server has no schema for {kind} in {version}"]


@functools.cache
def openapi_of(path):
    command = [*os.environ.get("KUBECTL", "kubectl").split(), "get", "--raw", f"/openapi/v3/{path}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return close(json.loads(answer.stdout)) if answer.returncode == 0 else None


def close(schema):
    """Makes a field that the schema does not know an error; the server itself only drops it."""
    if isinstance(schema, list):
        return [close(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(inner) for key, inner in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
