"""A host that embeds an old Python: reads from a file what to publish, and prints how it went.

Run by `test_client.py` with Python 3.7 to 3.9. Its environment is poisoned while it runs, as by a host that sets up its own
interpreter: what inherits it does not even start.
"""

import glob
import json
import os
import signal
import sys
import threading
import time

with open(sys.argv[1]) as _file:
    WISH = json.load(_file)
sys.path[:0] = WISH["path"]
import integrator_client  # noqa: E402

POISON = {
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": WISH["poison"],
    "PYTHONSTARTUP": "/nonexistent/startup.py",
    "LD_LIBRARY_PATH": WISH["poison"],
    "QT_PLUGIN_PATH": WISH["poison"],
}


def fork():
    """Start a worker by forking, as pools do, while something is copied."""
    if glob.glob(WISH["fork_at"]) and not os.path.exists(WISH["forked"]):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        with open(WISH["forked"] + ".new", "w") as file:
            file.write(str(pid))
        os.rename(WISH["forked"] + ".new", WISH["forked"])


def stops():
    """Whether the user presses Stop now: as soon as enough is copied."""
    if "fork_at" in WISH:
        fork()
    return WISH.get("stop_at") and any(os.path.getsize(name) >= WISH["stop_size"] for name in glob.glob(WISH["stop_at"]))


def breaks(percent):
    """A callback that fails, or that a user interrupts."""
    if WISH.get("break_with") == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if WISH.get("break_with"):
        raise RuntimeError("window closed")


def publish(told):
    arguments = dict(WISH.get("arguments", {}))
    said = []

    def progress(percent):
        told["progress"].append(percent)
        told["threads"].append(threading.current_thread() is threading.main_thread())
        breaks(percent)

    try:
        told["answer"] = integrator_client.publish(
            WISH["request"], progress=progress, message=said.append, cancel=stops, **arguments
        )
    except integrator_client.PublishFailed as error:
        names = ("code", "message", "next", "outcome", "exit_code", "transaction", "publish_id", "cancelled")
        told["error"] = dict({name: getattr(error, name) for name in names}, text=str(error))
    except BaseException as error:
        told["raised"] = type(error).__name__
    told["said"] = said


def publish_with_pyblish(told):
    import pyblish.api
    import pyblish.util

    pyblish.api.register_plugin_path(WISH["plugins"])
    for path in WISH.get("more_plugins", []):
        pyblish.api.register_plugin_path(path)
    context = pyblish.api.Context()
    context.data.update(WISH["context"])
    for data in WISH["instances"]:
        context.create_instance(**data)
    told["order"] = [(plugin.__name__, plugin.order) for plugin in pyblish.api.discover()]
    pyblish.util.publish(context)
    results = context.data["results"]
    told["errors"] = [[result["plugin"].__name__, str(result["error"])] for result in results if result["error"]]
    told["answer"] = context.data.get("publishResult")
    told["instances"] = [
        {key: value for key, value in instance.data.items() if isinstance(value, (str, int, list))} for instance in context
    ]
    told["seen"] = context.data.get("seen")


def main():
    os.environ.update(POISON)
    for name, value in WISH.get("signals", {}).items():
        signal.signal(getattr(signal, name), getattr(signal, value))
    if WISH.get("blocked"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in WISH["blocked"]])
    told = {"version": list(sys.version_info[:2]), "progress": [], "threads": []}
    (publish_with_pyblish if "plugins" in WISH else publish)(told)
    json.dump(told, sys.stdout)


main()
