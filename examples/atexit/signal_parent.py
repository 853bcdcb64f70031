"""Stop a program by SIGTERM, twice: as with `atexit`, and with lastly's signal handlers.

Prints what `signal_child.py` says before and after the signal, and its return code. The first
time that is -15: the signal's default action ends a process without running any more Python
code in it. The second time it is 143, which is 128 + 15, and both callbacks have run.
"""

import subprocess
import sys
from pathlib import Path

child = Path(__file__).with_name("signal_child.py")


def stop(*args: str) -> None:
    command = [sys.executable, str(child), *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        print("the child says:", process.stdout.readline().strip())
        process.terminate()
        print("sent SIGTERM to the child")
        said, _ = process.communicate()
    print("the child's callbacks were", "called:\n" + said.strip() if said else "NOT called")
    print("the child's return code is", process.returncode)


stop()
print("-- now with install_signal_handlers()")
stop("handled")
