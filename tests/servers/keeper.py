"""The process that owns a test server, and ends it when its user ends.

Run as a script by :class:`.Keeper` (in ``process.py``); imports nothing but
the standard library.  It makes a folder, runs programs in it as it is told
over its standard input, and, when that input closes, kills the server and
removes the folder.  The kernel closes the pipe whatever way the test run
ends, SIGKILL included, and nobody has to have thought of it beforehand.

One JSON object a line, each answered by one; requests are served one after
the other, so a run that is killed during ``initdb`` is cleaned up after it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

# The server's processes hold files in the folder open for a moment longer
# than its main process lives.
LAST_WAIT = 10


def main():
    # Ctrl-C goes to the whole terminal; the test run decides, not it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    where, user, group = sys.argv[1:]
    as_user = (
        {"user": int(user), "group": int(group), "extra_groups": []}
        if user
        else {}
    )
    folder = tempfile.mkdtemp(prefix="reaperpool-", dir=where)
    server = None
    try:
        if user:
            os.chown(folder, int(user), int(group))
        answer({"folder": folder, "pid": os.getpid()})
        for line in sys.stdin:
            request = json.loads(line)
            try:
                server = serve(request, folder, server, as_user)
            except (OSError, subprocess.SubprocessError) as error:
                answer({"error": f"{type(error).__name__}: {error}"})
    except BrokenPipeError:
        pass  # the user of this server is gone, like at end of input
    finally:
        end(server)
        shutil.rmtree(folder, ignore_errors=True)
        # Late writers may have made a file while the folder was emptied.
        shutil.rmtree(folder, ignore_errors=True)


def serve(request, folder, server, as_user):
    """Do one request, answer it, and return the server's process."""

    what = request["do"]
    if what == "run":
        done = subprocess.run(
            request["argv"],
            cwd=folder,
            env=request["env"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=request["timeout"],
            **as_user,
        )
        output = done.stdout.decode(errors="replace")
        answer({"status": done.returncode, "output": output})
    elif what == "start":
        with open(os.path.join(folder, "server.log"), "ab") as log:
            server = subprocess.Popen(
                request["argv"],
                cwd=folder,
                env=request["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # a Ctrl-C in the terminal is not for the server either
                start_new_session=True,
                **as_user,
            )
        answer({"pid": server.pid})
    elif what == "poll":
        answer({"status": server.poll()})
    elif what == "signal":
        if server.poll() is None:
            server.send_signal(request["signal"])
        answer({"status": server.wait(request["timeout"])})
    return server


def end(server):
    if server is None or server.poll() is not None:
        return
    # SIGQUIT: PostgreSQL ends its children at once and itself after them.
    for number in signal.SIGQUIT, signal.SIGKILL:
        server.send_signal(number)
        try:
            server.wait(LAST_WAIT)
            return
        except subprocess.TimeoutExpired:
            pass


def answer(what):
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
