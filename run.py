#!/usr/bin/env python3
"""Sets medquant up beside this file and runs it. Needs nothing but Python 3.10 to 3.13.

    python3 run.py                          the demonstration: quantize a model, see what it costs
    python3 run.py app [scan or folder]     the window: open a scan, quantize, segment, compare
    python3 run.py test [pytest options]    the tests
    python3 run.py package --out FOLDER     the extension as archives that 3D Slicer installs from a file
    python3 run.py COMMAND [options]        any medquant command; `python3 run.py --help` lists them

    --find-links FOLDER   before the command: take wheels from FOLDER first, from the network only if one is missing
    --reinstall           before the command: make the environment anew

The first run makes `.venv` here; later runs start at once unless the pinned versions have changed. Proxies and
certificates are those of pip: HTTPS_PROXY, PIP_CERT and the other PIP_* variables.
"""

import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 13) or sys.maxsize < 2**32:
    sys.exit(
        "medquant needs a 64-bit Python 3.10 to 3.13; this is Python {}.{}. "
        "Install one of those and start run.py with it, e.g. python3.12 run.py".format(*sys.version_info[:2])
    )

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LIBRARY = ROOT / "python_lib"
ENVIRONMENT = ROOT / ".venv"
WRONG_USAGE, SETUP_FAILED, CANCELLED = 2, 3, 130
ROOMS_WITH_WINDOWS = ("Panel", "Desktop")
"""Qt and VTK keep what one room has made until the process ends, and the next would meet it."""
NO_DISPLAY = (
    "There is no display to show the window on. Start it in a desktop session or with `ssh -X`, or use "
    "`python3 run.py demo`, which needs none."
)
MOST_WORKERS = 4
"""Processes that run the tests side by side, at most: each takes some 2 GB."""
# With PyTorch's CPU build, and what its build with GPU libraries takes more.
DOWNLOAD_GB, DISK_GB = 0.6, 2.5
GPU_DOWNLOAD_GB, GPU_DISK_GB = 2.7, 4.4
WINDOW_DOWNLOAD_GB, WINDOW_DISK_GB = 0.3, 1.1
# What some commands need besides, installed when they are first asked for.
WINDOW = "requirements-app.txt"
MORE_REQUIREMENTS = {"app": (WINDOW,), "test": ("requirements-test.txt", WINDOW)}
PLATFORMS = "Python 3.10 to 3.13 on Linux, Windows, or macOS 14 or later (Apple silicon)"
SIGNS_OF_NO_NETWORK = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure",
    "ProxyError",
    "Max retries",
    "ReadTimeoutError",
    "timed out",
    "Connection refused",
    "Network is unreach",
)
SMALLER = (
    "For the CPU build name PyTorch's own index of CPU wheels in PIP_EXTRA_INDEX_URL, or give a folder by --find-links"
)
GPU_NOTE = (
    f"  pip found a PyTorch with GPU libraries: {GPU_DOWNLOAD_GB} GB more to download, {GPU_DISK_GB} GB more on disk.\n"
    f"  {SMALLER} (Ctrl-C stops)."
)


class SetupError(Exception):
    """The environment cannot be made. The message is one line that a user can act on."""


@dataclass
class Request:
    """What the command line asks for: options of the set-up, then a medquant command."""

    find_links: Path | None = None
    reinstall: bool = False
    command: list[str] = field(default_factory=list)


def parse(arguments: list[str]) -> Request:
    """Read the set-up options that stand before the command; no command means the demonstration."""
    request, rest = Request(), list(arguments)
    while rest and rest[0].split("=")[0] in ("--find-links", "--reinstall"):
        option, _, value = rest.pop(0).partition("=")
        if option == "--reinstall":
            request.reinstall = True
            continue
        if not value and not rest:
            raise SetupError("--find-links needs a folder with wheels: python3 run.py --find-links FOLDER")
        request.find_links = Path(value or rest.pop(0)).expanduser().resolve()
        if not request.find_links.is_dir():
            raise SetupError(f"There is no folder {request.find_links}. Give the folder that holds the wheels.")
    request.command = rest or ["demo"]
    return request


def environment_python(environment: Path) -> Path:
    """The environment's interpreter."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(*files: Path) -> str:
    """What was installed, in one word: changes with the pins, the package's own metadata and the checkout's place."""
    digest = hashlib.sha256(str(LIBRARY).encode())
    for file in files:
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def runs(python: Path) -> bool:
    """Whether an environment's interpreter starts and has pip."""
    if not python.exists():
        return False
    try:
        return subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def gpu_libraries_come(request: Request) -> bool:
    """Whether pip takes the PyTorch with GPU libraries: on Linux, unless a source of other wheels is named."""
    if sys.platform != "linux" or request.find_links:
        return False
    command = [sys.executable, "-m", "pip", "config", "list"]  # says nothing where this Python has no pip
    configured = subprocess.run(command, capture_output=True, text=True).stdout
    variables = " ".join(name for name, value in os.environ.items() if value).lower().replace("_", "-")
    return not any(word in configured + variables for word in ("extra-index-url", "find-links"))


def make_environment(environment: Path, disk_gb: float = DISK_GB, advice: str = "Make room") -> None:
    """An empty virtual environment. Raises `SetupError` with what is missing."""
    try:
        import ensurepip  # noqa: F401 - Debian ships venv without it
        import venv
    except ImportError as error:
        raise SetupError(
            "This Python cannot make virtual environments. Install its venv module "
            "(Debian and Ubuntu: sudo apt install python3-venv) and start again."
        ) from error
    free = shutil.disk_usage(environment.parent).free / 1e9
    if free < disk_gb:
        raise SetupError(f"{environment.parent} has {free:.1f} GB free, {disk_gb:.1f} GB are needed. {advice}.")
    try:
        venv.create(environment, clear=True, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SetupError(f"{environment} cannot be made: {reason}. Choose a folder where you may write.") from error


def explain(output: str) -> str:
    """Why pip failed, in one line that says what to do."""
    if "No space left on device" in output or "Errno 28" in output:
        return "The disk is full. Make room (pip also needs 1 GB in the temporary folder) and start again."
    if "CERTIFICATE_VERIFY_FAILED" in output:
        return "The network's certificate is not trusted. Name your institution's certificate file in PIP_CERT."
    if "Permission denied" in output or "Errno 13" in output:
        return f"{ENVIRONMENT} cannot be written. Move the checkout to a folder where you may write."
    if any(sign in output for sign in SIGNS_OF_NO_NETWORK):
        return (
            "The package registry cannot be reached. Check the network, or the proxy in HTTPS_PROXY; "
            "without a network give a folder of wheels by --find-links."
        )
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        python = "{}.{}".format(*sys.version_info[:2])
        return (
            f"No package {missing[1]} for Python {python} on this system. Add its wheel to the --find-links folder, "
            f"or use 64-bit {PLATFORMS}."
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else "pip failed without saying why."


class Status:
    """One line that is written over on a terminal; elsewhere only large downloads are told, a line each."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.megabytes = 0.0
        self.told_of_gpu = False

    def follow(self, lines: Iterable[str]) -> str:
        """Show what pip does while it does it; returns all of its words."""
        heard = []
        for line in lines:
            heard.append(line)
            self.hear(line.strip())
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        return "".join(heard)

    def hear(self, line: str) -> None:
        """One line of pip's."""
        if not self.told_of_gpu and line.startswith("Collecting nvidia-"):
            self.told_of_gpu = True
            tell(("\r\033[K" if self.terminal else "") + GPU_NOTE)
        size = re.match(r"Downloading (\S+?)[ -].*\(([\d.]+) (kB|MB|GB)\)", line)
        if size:
            megabytes = float(size[2]) * {"kB": 1e-3, "MB": 1.0, "GB": 1e3}[size[3]]
            self.megabytes += megabytes
            self.show(f"downloading {size[1].split('/')[-1]} ({megabytes:.0f} MB)", worth_a_line=megabytes > 50)
        elif line.startswith("Installing collected packages"):
            count = line.count(",") + 1
            self.show(f"unpacking {count} package{'s' if count > 1 else ''}", worth_a_line=count > 1)
        elif line.startswith(("Collecting", "Building", "Preparing")):
            self.show(line.split("(")[0].lower(), worth_a_line=False)

    def show(self, text: str, *, worth_a_line: bool) -> None:
        """Say one thing."""
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print(("\r\033[K    " + text)[: width + 4], end="", file=sys.stderr, flush=True)
        elif worth_a_line:
            tell(f"    {text}")


def tell(text: str) -> None:
    """Words about the set-up go to standard error, so that a command's own output stays clean."""
    print(text, file=sys.stderr, flush=True)


def pip(python: Path, *arguments: str, status: Status, log: Path) -> None:
    """Run the environment's pip. Raises `SetupError` with the reason and where pip's own words are."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
    settings = {**os.environ, "PIP_USER": "0", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        command,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        output = status.follow(process.stdout)
    try:
        with log.open("a", encoding="utf-8") as stream:
            stream.write(" ".join(command[2:]) + "\n" + output)
    except OSError:  # a full disk: pip's words are explained below all the same
        pass
    if process.returncode:
        raise SetupError(f"{explain(output)} (pip's own words: {log})")


def install(python: Path, requirements: list[Path], request: Request, torch_gb: float = 0.2) -> None:
    """Install the pinned versions, PyTorch first so that nothing else chooses it, then the checkout itself."""
    log, status = ENVIRONMENT / "install.log", Status()
    log.unlink(missing_ok=True)
    torch = next(
        line for line in requirements[0].read_text(encoding="utf-8").splitlines() if line.startswith("torch==")
    )
    pins = [word for file in requirements for word in ("-r", str(file))]
    constraints = ["-c", str(LIBRARY / "constraints.txt")]
    steps = [
        (f"{torch.replace('==', ' ')} (about {torch_gb:.1f} GB)", [torch, *constraints]),
        ("transformers, nnunetv2, monai, openvino and what they need (about 0.4 GB)", [*pins, *constraints]),
        ("medquant from python_lib", ["--no-deps", "--no-build-isolation", "--editable", str(LIBRARY)]),
    ]
    for number, (name, arguments) in enumerate(steps, start=1):
        tell(f"  {number}/{len(steps)} {name}")
        if request.find_links is None:
            pip(python, *arguments, status=status, log=log)
            continue
        folder = ["--find-links", str(request.find_links)]
        try:
            pip(python, "--no-index", *folder, *arguments, status=status, log=log)
        except SetupError:
            tell(f"    {request.find_links.name} does not hold all of it: looking on the network too")
            pip(python, *folder, *arguments, status=status, log=log)


def requirements_of(command: str) -> list[Path]:
    """The files of pins that a command needs."""
    return [LIBRARY / name for name in ("requirements.txt", *MORE_REQUIREMENTS.get(command, ()))]


def prepare(request: Request) -> Path:
    """The interpreter of an environment that holds the pinned versions, made or brought up to date if needed."""
    python = environment_python(ENVIRONMENT)
    requirements = requirements_of(request.command[0])
    common = (LIBRARY / "constraints.txt", LIBRARY / "pyproject.toml")
    stamps = {ENVIRONMENT / f"{file.stem}.stamp": fingerprint(file, *common) for file in requirements}
    if not request.reinstall and python.exists() and all(holds(stamp, word) for stamp, word in stamps.items()):
        return python
    began = time.monotonic()
    more_gb, more_disk_gb = (GPU_DOWNLOAD_GB, GPU_DISK_GB) if gpu_libraries_come(request) else (0.0, 0.0)
    window_gb, window_disk_gb = (WINDOW_DOWNLOAD_GB, WINDOW_DISK_GB) if LIBRARY / WINDOW in requirements else (0.0, 0.0)
    if request.reinstall or not runs(python):
        download_gb, disk_gb = DOWNLOAD_GB + more_gb + window_gb, DISK_GB + more_disk_gb + window_disk_gb
        tell(f"Setting up medquant in {ENVIRONMENT}: once, {download_gb:.1f} GB to download, {disk_gb:.1f} GB on disk")
        make_environment(ENVIRONMENT, disk_gb, f"Make room. {SMALLER}" if more_gb else "Make room")
    else:
        window = f", the window's {window_gb} GB among them" if window_gb else ""
        tell(f"Bringing {ENVIRONMENT} up to date with the pinned versions{window}")
    for stamp in stamps:
        stamp.unlink(missing_ok=True)
    install(python, requirements, request, 0.2 + more_gb)
    for stamp, word in stamps.items():
        stamp.write_text(word, encoding="utf-8")
    tell(f"Ready after {time.monotonic() - began:.0f} s.")
    return python


def holds(stamp: Path, word: str) -> bool:
    """Whether a stamp file says `word`."""
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == word


def has_display() -> bool:
    """Whether a window can be shown; asked on Linux, before anything is downloaded for it."""
    return not sys.platform.startswith("linux") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    )


def run_tests(python: Path, options: list[str]) -> int:
    """All tests, the rooms with windows in processes of their own; or those that the options choose."""
    command = [str(python), "-m", "pytest", *side_by_side(options)]
    if is_choice(options):
        return start(command, folder=ROOT)
    rooms = [f"Testing/{room}" for room in ROOMS_WITH_WINDOWS]
    groups = [["Testing", *(f"--ignore={room}" for room in rooms)], *([room] for room in rooms)]
    try:
        return max([subprocess.call([*command, *group], cwd=ROOT) for group in groups])
    except KeyboardInterrupt:
        return CANCELLED


def is_choice(options: list[str]) -> bool:
    """Whether options of pytest choose tests, or say how they are to run."""
    return any(not option.startswith("-") or option.startswith(("-n", "-k", "--pdb", "--co")) for option in options)


def side_by_side(options: list[str]) -> list[str]:
    """Options of pytest: all tests in several processes; a choice of them, or with -n, as the user says."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    if is_choice(options) or workers < 2:
        return options
    # Each process computes on its part of the processor: threads that wait for each other cost more than they bring.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    return ["-n", str(workers), "--dist", "loadfile", *options]


def start(command: list[str], folder: Path | None = None) -> int:
    """Become the command, or on Windows wait for it; Ctrl-C goes to the command alone, which ends in its own way."""
    if folder:
        os.chdir(folder)
    if os.name != "nt":
        os.execv(command[0], command)
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return process.wait()


def main(arguments: list[str]) -> int:
    """Set up, then run the command in the environment; returns its exit code."""
    python = environment_python(ENVIRONMENT)
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__.strip(), end="\n\n", flush=True)
        return start([str(python), "-m", "medquant", "--help"]) if python.exists() else 0
    if arguments and arguments[0] == "package":  # needs no environment
        return start([sys.executable, str(ROOT / "Packaging" / "extension_archive.py"), *arguments[1:]])
    try:
        request = parse(arguments)
        if request.command[0] == "app" and not has_display():
            tell(NO_DISPLAY)
            return WRONG_USAGE
        python = prepare(request)
    except SetupError as error:
        tell(f"medquant could not be set up. {error}")
        return SETUP_FAILED
    except OSError as error:
        tell(f"medquant could not be set up. {error.filename or ENVIRONMENT}: {error.strerror or error}")
        return SETUP_FAILED
    except KeyboardInterrupt:
        tell("\nStopped. Start again at any time.")
        return CANCELLED
    if request.command[0] == "test":
        return run_tests(python, request.command[1:])
    return start([str(python), "-m", "medquant", *request.command])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
