"""The real worker with some methods of bad manners, as a program."""

NOISY = """
import ctypes, os, subprocess, sys, time, warnings
from medquant.worker.service import Service

def noise(params, work):
    print("printed")
    sys.__stdout__.write("written to the first stdout\\n")
    os.write(1, b"from below Python\\n")
    subprocess.run([sys.executable, "-c", "print('a child')"])
    warnings.warn("a warning")
    assert input_is_empty()
    return {"quiet": True}

def input_is_empty():
    return sys.stdin.read() == "" and os.read(0, 10) == b""

def memory(params, work):
    return {"size": len(bytearray(1 << 62))}

def torch_memory(params, work):
    import torch

    return {"size": len(torch.empty(1 << 58))}

def fault(params, work):
    raise KeyError("volume")

def odd(params, work):
    return {"nan": float("nan"), "inf": [float("inf")], "path": __import__("pathlib").Path("a")}

def deaf(params, work):
    while not (params.get("listens") and work.cancelled):
        time.sleep(0.05)
    time.sleep(params.get("longer", 0))
    open(work.folder / "stopped", "w").close()
    return {}

def burn(params, work):
    work.part().report(0.1, "Burning")
    while True:
        pass

def compile(params, work):
    from medquant.background import stoppable_call

    return stoppable_call(lambda: burn({}, work), work.part())

def export(params, work):
    import pathlib, tempfile
    from medquant.worker.unfinished import writing_in

    target = pathlib.Path(params["folder"])
    with writing_in(target, work.folder):
        beside = tempfile.mkdtemp(prefix=".writing-", dir=target)
        open(beside + "/model.onnx", "w").close()
        burn(params, work)

def pool(params, work):
    from concurrent.futures import ThreadPoolExecutor

    METHODS["kept"] = kept = ThreadPoolExecutor(2)  # as libraries keep theirs
    kept.submit(time.sleep, 0.3)
    while True:
        work.part().report(0.1, "Working")
        work.part().check()
        time.sleep(0.01)

def torn_report(params, work):
    from types import SimpleNamespace

    from medquant.evaluation import report
    from medquant.files import atomic_path
    from medquant.worker.methods import comparing

    def write(path, *_, **__):
        with atomic_path(path) as temporary:
            temporary.write_text("a patient")
            burn(params, work)

    model = SimpleNamespace(name="")
    report.write_report, comparing._axis, comparing._edits = write, lambda *_: 0, lambda *_: []
    comparing.wording = SimpleNamespace(short_names=lambda _: {})
    comparing._compared = lambda *_: (SimpleNamespace(summary=[model] * 2), [SimpleNamespace(volume=None)] * 2)
    return comparing.report(params, work)

def unsendable(params, work):
    return {"thing": object()}

def exiting(params, work):
    raise SystemExit(3)

def freeze(params, work):
    ctypes.PyDLL(None).sleep(params["seconds"])  # keeps the interpreter's lock
    return {}

METHODS = dict(globals())
found = Service._function
Service._function = lambda self, name: METHODS.get(name) or found(self, name)
from medquant.cli import main
main()
"""
