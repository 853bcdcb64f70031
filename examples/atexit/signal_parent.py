"""Kill a program by SIGTERM: as with `atexit`, none of its callbacks is called.

Prints what `signal_child.py` says before and after the signal, and its return code, -15: the
signal's default action ends a process without running any more Python code in it.
"""

import subprocess
import sys
from pathlib import Path

child = Path(__file__).with_name("signal_child.py")
command = [sys.executable, str(child)]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    print("the child says:", process.stdout.readline().strip())
    process.terminate()
    print("sent SIGTERM to the child")
    said, _ = process.communicate()

print("the child's callbacks were", "called:\n" + said if said else "NOT called")
print("the child's return code is", process.returncode)
