"""Writes what is made of other files: the chart's crds/ of crds.yaml, and exeat.yaml of the chart and its own values.

    .venv/bin/python packaging/kubernetes/generate.py

Helm renders the chart; it is a library of PyPI (helm-python-sdk), and asks nobody for anything.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART = HERE.parent / "chart" / "exeat"
CRDS = CHART / "crds"
WHOLE = HERE / "exeat.yaml"
NAMESPACE = "exeat"
RELEASE = "exeat"
_CRD_HEAD = "# Made of packaging/kubernetes/crds.yaml by generate.py beside it.\n"
_WHOLE_HEAD = """\
# exeat for a cluster without Helm: what the chart renders with its default values. Made by generate.py beside it.
#   packaging/kubernetes/certificates.sh NODE... | kubectl apply --server-side -f -    # once there is the namespace
#   kubectl apply --server-side -f packaging/kubernetes/exeat.yaml
# Set the names of your images first; what else to change, and what it does: docs/kubernetes.md.
"""


class _Plain(yaml.SafeDumper):
    """Without anchors: a reader of a manifest should not have to look elsewhere."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def definitions() -> dict[str, str]:
    """The text of each CustomResourceDefinition, by its file's name."""
    source = yaml.safe_load((HERE / "crds.yaml").read_text())
    return {f"{one['plural']}.yaml": _CRD_HEAD + text(_definition(one)) for one in source["definitions"]}


def _definition(one: dict[str, Any]) -> dict[str, Any]:
    kind, plural = one["kind"], one["plural"]
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.exeat.dev", "labels": {"app.kubernetes.io/name": "exeat"}},
        "spec": {
            "group": "exeat.dev",
            "names": {**names, "shortNames": [one["short"]], "categories": ["exeat"]},
            "scope": one["scope"],
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": one["columns"],
                    "schema": {"openAPIV3Schema": one["schema"]},
                }
            ],
        },
    }


def rendered(values: dict[str, Any] | None = None, chart: Path = CHART) -> dict[str, str]:
    """What Helm makes of the templates, by their files' names."""
    from helm_python.chart import Chart

    with Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        made: dict[str, str] = loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    return {Path(name).name: manifest for name, manifest in made.items()}


def whole(manifests: dict[str, str], crds: dict[str, str]) -> str:
    """Namespace, definitions and objects in one file, in the order in which they need each other."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        # The agents' pods are the node's in all but name.
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    }
    objects = [
        "\n".join(line for line in document.strip().splitlines() if "helm.sh/" not in line) + "\n"
        for name in sorted(manifests, key=lambda name: (name != "plane-access.yaml", name))
        if name.endswith(".yaml")
        for document in manifests[name].replace("managed-by: Helm", "managed-by: kubectl").split("\n---\n")
        if document.strip()
    ]
    documents = [text(namespace), *(crd.removeprefix(_CRD_HEAD) for crd in crds.values()), *objects]
    return _WHOLE_HEAD + "---\n" + "---\n".join(documents)


def text(document: dict[str, Any]) -> str:
    """As YAML, in the document's own order."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def main() -> int:
    """Writes the files."""
    crds = definitions()
    CRDS.mkdir(exist_ok=True)
    for name, definition in crds.items():
        (CRDS / name).write_text(definition)
    WHOLE.write_text(whole(rendered(), crds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
