"""The compilers that Triton and torch.compile call when a kernel first runs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from maris_fast.doctor.finding import Finding, broken, ok, together, warning
from maris_fast.doctor.subject import Subject

INSTALL = "apt-get install g++ (or `module load gcc` on a cluster), or set {variable} to one"
# Triton builds its launcher as a Python extension.
C_PROGRAM = "#include <Python.h>\nint doctor(void) { return Py_IsInitialized(); }\n"
CPP_PROGRAM = "#include <vector>\nint doctor() { return std::vector<int>{1, 2, 3}.size(); }\n"


def compilers(subject: Subject) -> Finding:
    """Compiles a small C extension of Python and a small C++ library, as first uses of kernels do.

    DeepSpeed builds nothing here (docs/training.md), so neither ninja nor nvcc is asked for.
    """
    c = _compiles("CC", ("cc", "gcc", "clang"), ".c", C_PROGRAM)
    cpp = _compiles("CXX", ("c++", "g++", "clang++"), ".cpp", CPP_PROGRAM)
    compiled = subject.training is not None and subject.training.engine.compile
    on_gpu = Path("/dev/nvidiactl").exists() and not subject.refuses_gpu
    return together(
        [
            judge_compiler(c, "C compiler with Python's headers", "Triton's kernels on a GPU", "CC", on_gpu),
            judge_compiler(cpp, "C++ compiler", "engine.compile", "CXX", compiled),
        ]
    )


def judge_compiler(made: tuple[bool, str], what: str, user: str, variable: str, used: bool) -> Finding:
    """``made``: whether it worked, and its name and time, or why not; ``used``: by the run at hand."""
    works, said = made
    if works:
        return ok(said)
    todo = INSTALL.format(variable=variable)
    if "Python.h" in said:
        todo = "install Python's headers (apt-get install python3-dev), or use a Python that has them"
    needed = f"a {what}, for {user}"
    return broken(said, needed, todo) if used else warning(said, f"{needed}; not in this run", todo)


def _compiles(variable: str, names: tuple[str, ...], suffix: str, program: str) -> tuple[bool, str]:
    given = shlex.split(os.environ.get(variable, ""))
    command = given or [name for name in names if shutil.which(name)][:1]
    if not command:
        return False, f"no {', '.join(names[:-1])} or {names[-1]} on PATH"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, f"doctor{suffix}"), Path(folder, "doctor.so")
        source.write_text(program)
        include = f"-I{sysconfig.get_paths()['include']}"
        began = time.monotonic()
        try:
            done = subprocess.run(
                [*command, "-shared", "-fPIC", include, "-o", str(library), str(source)],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            return False, f"{variable}={shlex.join(command)} cannot be run: {error}"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return False, f"{shlex.join(command)} fails: {next((x for x in lines if 'error' in x), lines[0])}"
    return True, f"{shlex.join(command)} works ({time.monotonic() - began:.1f} s)"
