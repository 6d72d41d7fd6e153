"""run.py: what it asks pip for, when, and how it explains a failure. Nothing here needs a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_fingerprint_follows_the_pins(run_py: ModuleType, tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_bytes(b"torch==1\nnumpy==2\n")
    before = run_py.fingerprint(pins)
    pins.write_bytes(b"torch==1\r\nnumpy==2\r\n")
    assert run_py.fingerprint(pins) == before, "the same pins checked out on Windows"
    pins.write_bytes(b"torch==1\nnumpy==3\n")
    assert run_py.fingerprint(pins) != before


def test_the_fingerprint_follows_the_place_of_the_checkout(run_py: ModuleType, tmp_path: Path) -> None:
    pins = CHECKOUT / "python_lib" / "requirements.txt"
    before = run_py.fingerprint(pins)
    run_py.LIBRARY = tmp_path
    assert run_py.fingerprint(pins) != before, "an editable installation points at a folder"


class Pip:
    """Stands where pip is called, and remembers with what."""

    def __init__(self, module: ModuleType, *failures: str) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.failures = failures
        self.module = module

    def __call__(self, python: Path, *arguments: str, **_: object) -> None:
        self.calls.append(arguments)
        if any(word in arguments for word in self.failures):
            raise self.module.SetupError("not there")


@pytest.fixture
def an_environment(run_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py with an environment that looks usable."""
    python = run_py.environment_python(run_py.ENVIRONMENT)
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(run_py, "runs", lambda python: python.exists())
    return run_py


def test_pytorch_is_installed_first_and_the_checkout_last(
    an_environment: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip(an_environment)
    monkeypatch.setattr(an_environment, "pip", pip)
    an_environment.prepare(an_environment.parse(["models"]))
    assert [call[0] for call in pip.calls] == ["torch==2.13.0", "-r", "--no-deps"]
    assert not any("requirements-test.txt" in word for call in pip.calls for word in call)


def test_nothing_is_installed_twice_until_the_pins_change(
    an_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "python_lib"
    library.mkdir()
    for file in (CHECKOUT / "python_lib").glob("*.t*"):
        (library / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(an_environment, "LIBRARY", library)
    pip = Pip(an_environment)
    monkeypatch.setattr(an_environment, "pip", pip)
    an_environment.prepare(an_environment.parse(["models"]))
    an_environment.prepare(an_environment.parse(["demo"]))
    assert len(pip.calls) == 3
    an_environment.prepare(an_environment.parse(["test"]))
    assert len(pip.calls) == 6, "the tests need more"
    an_environment.prepare(an_environment.parse(["test"]))
    an_environment.prepare(an_environment.parse(["demo"]))
    assert len(pip.calls) == 6
    with (library / "constraints.txt").open("a") as stream:
        stream.write("something==1\n")
    an_environment.prepare(an_environment.parse(["demo"]))
    assert len(pip.calls) == 9


def test_a_failed_installation_is_tried_again(an_environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(an_environment, "pip", Pip(an_environment, "-r"))
    with pytest.raises(an_environment.SetupError):
        an_environment.prepare(an_environment.parse([]))
    assert not list(an_environment.ENVIRONMENT.glob("*.stamp"))
    pip = Pip(an_environment)
    monkeypatch.setattr(an_environment, "pip", pip)
    an_environment.prepare(an_environment.parse([]))
    assert len(pip.calls) == 3


def test_a_wheel_folder_is_used_without_the_network(
    an_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pip = Pip(an_environment)
    monkeypatch.setattr(an_environment, "pip", pip)
    an_environment.prepare(an_environment.parse(["--find-links", str(tmp_path), "models"]))
    assert len(pip.calls) == 3
    assert all(call[:3] == ("--no-index", "--find-links", str(tmp_path.resolve())) for call in pip.calls)


def test_an_incomplete_wheel_folder_is_helped_by_the_network(
    an_environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pip = Pip(an_environment, "--no-index")
    monkeypatch.setattr(an_environment, "pip", pip)
    an_environment.prepare(an_environment.parse(["--find-links", str(tmp_path), "models"]))
    assert [call[0] for call in pip.calls] == ["--no-index", "--find-links"] * 3


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying ... NewConnectionError('...: Failed to establish a new connection')\n"
         "ERROR: No matching distribution found for torch==2.13.0", "network"),
        ("WARNING: Retrying (Retry(total=4)) after ProxyError('Cannot connect to proxy.')", "HTTPS_PROXY"),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='x')", "cannot be reached"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] ...", "PIP_CERT"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'", "may write"),
        ("ERROR: No matching distribution found for torch==2.13.0", "torch==2.13.0"),
        ("noise\nERROR: something else went wrong\n", "something else went wrong"),
        ("", "without saying why"),
    ],
)  # fmt: skip
def test_a_failure_is_explained_in_one_line(run_py: ModuleType, output: str, advice: str) -> None:
    explained = run_py.explain(output)
    assert advice in explained
    assert "\n" not in explained


def test_pip_really_fails_with_one_line_and_a_log(run_py: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    with pytest.raises(run_py.SetupError, match="no-such-package-of-ours") as caught:
        run_py.pip(
            Path(sys.executable),
            "--no-index",
            "no-such-package-of-ours==1.0",
            status=run_py.Status(),
            log=log,
        )
    assert "\n" not in str(caught.value)
    assert "No matching distribution" in log.read_text(encoding="utf-8")


def test_large_downloads_and_gpu_libraries_are_told(run_py: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    status = run_py.Status()
    status.terminal = False
    output = status.follow(
        [
            "Collecting torch==2.13.0\n",
            "  Downloading torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl (181.3 MB)\n",
            "  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)\n",
            "Collecting nvidia-cublas==13\n",
            "Collecting nvidia-cudnn==9\n",
            "Installing collected packages: a, b, c\n",
        ]
    )
    told = capsys.readouterr().err
    assert "downloading torch (181 MB)" in told
    assert "six" not in told
    assert told.count("GPU libraries") == 1
    assert "unpacking 3 packages" in told
    assert status.megabytes == pytest.approx(181.3, abs=0.1)
    assert output.startswith("Collecting torch")


def test_too_little_space_is_told_before_anything_is_made(run_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_py.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    with pytest.raises(run_py.SetupError, match=r"1\.0 GB free"):
        run_py.make_environment(run_py.ENVIRONMENT)
    assert not run_py.ENVIRONMENT.exists()


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip as it is on a machine that nobody has set up: neither variables nor files name a source of wheels."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.mark.usefixtures("no_settings")
def test_on_linux_the_gpu_libraries_are_reckoned_with(
    run_py: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for the CPU build alone is too little there."""
    monkeypatch.setattr(run_py.sys, "platform", "linux")
    monkeypatch.setattr(run_py.shutil, "disk_usage", lambda path: SimpleNamespace(free=4e9))
    with pytest.raises(run_py.SetupError, match=r"4\.0 GB free, 6\.9 GB are needed.*PIP_EXTRA_INDEX_URL"):
        run_py.prepare(run_py.parse([]))
    assert "3.3 GB to download, 6.9 GB on disk" in capsys.readouterr().err
    assert not run_py.ENVIRONMENT.exists()


@pytest.mark.usefixtures("no_settings")
@pytest.mark.parametrize("case", ["macOS", "Windows", "folder", "variable", "index", "file"])
def test_elsewhere_the_cpu_build_is_reckoned_with(
    run_py: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    monkeypatch.setattr(run_py.sys, "platform", {"macOS": "darwin", "Windows": "win32"}.get(case, "linux"))
    arguments = [f"--find-links={tmp_path}"] if case == "folder" else []
    if case == "variable":
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    if case == "index":
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://example.org/cpu")
    if case == "file":
        (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = https://example.org/cpu\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert not run_py.gpu_libraries_come(run_py.parse(arguments))


def test_a_python_without_venv_is_told(run_py: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(run_py.SetupError, match="python3-venv"):
        run_py.make_environment(run_py.ENVIRONMENT)


def test_an_environment_is_really_made_and_runs(run_py: ModuleType) -> None:
    run_py.make_environment(run_py.ENVIRONMENT)
    python = run_py.environment_python(run_py.ENVIRONMENT)
    assert run_py.runs(python)
    python.unlink()
    assert not run_py.runs(python)
