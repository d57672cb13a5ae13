"""The doctor's verdicts, its JSON and its exit code, with the installed versions made up."""

from __future__ import annotations

import json

import pytest
from packaging.requirements import Requirement

from recbole_siger import compat
from recbole_siger.cli import doctor
from recbole_siger.cli.doctor import Finding

REQUIREMENTS = [
    Requirement(line)
    for line in (
        "torch>=2.6",
        "numpy<3,>=2.0",
        "ray[tune]>=2.40",
        'faiss-cpu>=1.8; extra == "ncl"',
        'recbole-siger[ncl]; extra == "test"',
        'pytest>=8.3; extra == "test"',
    )
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the versions that the doctor finds, all of them tested ones; a test changes them."""
    names = ("torch", "numpy", "ray", "faiss-cpu")
    versions = {"recbole-siger": "0.1.0", **{name: doctor.TESTED[name][1] for name in names}}
    monkeypatch.setattr(doctor, "_version", versions.get)
    monkeypatch.setattr(doctor, "_metadata", lambda: (">=3.11,<3.14", REQUIREMENTS))
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.11.9")
    monkeypatch.setattr(doctor, "_compat_finding", lambda: Finding("compat", "applied", "", "ok"))
    return versions


def _finding(package: str) -> Finding:
    return next(finding for finding in doctor.diagnose() if finding.package == package)


def test_all_tested_versions_are_ok(installed: dict[str, str]) -> None:
    findings = doctor.diagnose()
    packages = ["python", "recbole-siger", "torch", "numpy", "ray", "faiss-cpu", "compat"]
    assert [finding.package for finding in findings] == packages
    assert {finding.verdict for finding in findings} == {"ok"}


def test_a_local_version_is_tested_as_its_public_one(installed: dict[str, str]) -> None:
    installed["torch"] = doctor.TESTED["torch"][1] + "+cu130"
    assert _finding("torch").verdict == "ok"


@pytest.mark.parametrize("version", ["2.6.0", "99.0"])
def test_required_but_not_tested_range_is_untested(installed: dict[str, str], version: str) -> None:
    installed["torch"] = version
    low, high = doctor.TESTED["torch"]
    tested = low if low == high else f"{low} to {high}"
    assert _finding("torch") == Finding("torch", version, tested, "untested")
    assert doctor.main(as_json=True) == 0


@pytest.mark.parametrize("found", [None, "1.26.4", "3.0.0"])
def test_missing_or_out_of_range_is_a_blocker(installed: dict[str, str], found: str | None) -> None:
    installed.pop("numpy")
    if found is not None:
        installed["numpy"] = found
    finding = _finding("numpy")
    assert (finding.found, finding.verdict) == (found, "blocker")
    assert finding.fix == 'pip install "numpy<3,>=2.0"'


def test_a_fix_keeps_the_extras(installed: dict[str, str]) -> None:
    installed.pop("ray")
    assert _finding("ray").fix == 'pip install "ray[tune]>=2.40"'


@pytest.mark.parametrize("found", [None, "1.7.4"])
def test_optional_package_never_blocks(installed: dict[str, str], found: str | None) -> None:
    installed.pop("faiss-cpu")
    if found is not None:
        installed["faiss-cpu"] = found
    finding = _finding("faiss-cpu")
    assert (finding.found, finding.verdict) == (found, "missing")
    assert finding.fix == 'pip install "recbole-siger[ncl]"'
    assert doctor.main(as_json=True) == 0


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("3.10.4", "blocker"), ("3.11.0", "ok"), ("3.13.1", "untested"), ("3.14.0", "blocker")],
)
def test_python(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, version: str, verdict: str
) -> None:
    monkeypatch.setattr(doctor, "TESTED", {**doctor.TESTED, "python": ("3.11", "3.12")})
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    assert _finding("python").verdict == verdict


CPU = "--index-url https://download.pytorch.org/whl/cpu"


@pytest.mark.parametrize(
    ("torch", "vision", "system", "fix"),
    [
        ("2.13.0+cpu", "0.28.0", ("Linux", "x86_64"), f"torchvision==0.28.0 {CPU}"),
        ("2.13.0+cpu", "0.28.0+cu130", ("Linux", "x86_64"), f"torchvision==0.28.0 {CPU}"),
        ("2.13.0", "0.28.0+cpu", ("Linux", "x86_64"), "torchvision==0.28.0"),
        ("2.13.0+cu126", "0.28.0+cu130", ("Linux", "x86_64"), f"torchvision==0.28.0 {CPU[:-3]}cu126"),
        ("2.13.0+cpu", "0.28.0+cpu", ("Linux", "x86_64"), None),
        ("2.13.0", "0.28.0", ("Linux", "x86_64"), None),
        ("2.13.0", "0.28.0+cu130", ("Linux", "x86_64"), None),
        ("2.13.0+cpu", "0.28.0", ("Linux", "aarch64"), None),
        ("2.13.0+cpu", "0.28.0", ("Darwin", "arm64"), None),
        ("2.13.0+git1234", "0.28.0+cpu", ("Linux", "x86_64"), None),
        ("2.13.0+cpu", None, ("Linux", "x86_64"), None),
    ],
)
def test_a_torchvision_of_another_build_is_named(
    installed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    torch: str,
    vision: str | None,
    system: tuple[str, str],
    fix: str | None,
) -> None:
    installed["torch"] = torch
    if vision is not None:
        installed["torchvision"] = vision
    monkeypatch.setattr(doctor.platform, "system", lambda: system[0])
    monkeypatch.setattr(doctor.platform, "machine", lambda: system[1])
    found = [one for one in doctor.diagnose() if one.package == "torchvision"]
    assert [one.fix for one in found] == (
        [] if fix is None else [f"pip install --force-reinstall --no-deps {fix}"]
    )
    for one in found:
        assert one.verdict == "missing"
        assert one.found is not None
        assert str(vision) in one.found
        assert torch in one.found
    assert doctor.main(as_json=True) == 0


def test_distribution_not_installed(installed: dict[str, str]) -> None:
    installed.pop("recbole-siger")
    assert _finding("recbole-siger") == Finding("recbole-siger", None, "", "blocker", "pip install -e .")
    assert _finding("torch").verdict == "ok"
    assert _finding("rich").verdict == "blocker"  # the fixture has none


def test_compat_that_fails_is_a_blocker(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no such thing")

    monkeypatch.setattr(compat, "apply", fail)
    finding = doctor._compat_finding()
    assert (finding.found, finding.verdict) == ("ImportError: no such thing", "blocker")


def test_json_has_a_stable_schema(installed: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    installed.pop("torch")
    assert doctor.main(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["schema", "ok", "findings"]
    assert (report["schema"], report["ok"]) == (1, False)
    for finding in report["findings"]:
        assert list(finding) == ["package", "found", "tested", "verdict", "fix"]
        assert finding["verdict"] in {"ok", "untested", "missing", "blocker"}


def test_table_shows_the_fix_with_its_brackets(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    installed.pop("faiss-cpu")
    assert doctor.main(as_json=False) == 0
    shown = capsys.readouterr().out
    assert 'pip install "recbole-siger[ncl]"' in shown
    assert "missing" in shown


def test_metadata_of_this_installation() -> None:
    if doctor._version(doctor.DISTRIBUTION) is None:
        pytest.skip("the tests run from a checkout that is not installed")
    requires_python, requirements = doctor._metadata()
    assert requires_python
    asked_for = {requirement.name.lower() for requirement in requirements if doctor._asked_for(requirement)}
    assert asked_for == doctor.TESTED.keys() - {"python", *doctor._OF_EXTRAS}
