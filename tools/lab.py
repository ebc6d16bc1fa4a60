"Open JupyterLab on the notebooks: `python tools/lab.py [PORT]`."
import os
import subprocess
import sys
from pathlib import Path

root = Path(__file__).parents[1]


def lab_command(port: str) -> list[str]:
    "The command line that opens the first notebook; without a display JupyterLab prints its URL."
    command = [sys.executable, "-m", "jupyterlab", f"--port={port}",
               "--LabApp.default_url=/lab/tree/nbs/index.ipynb",
               # no request to other hosts for news or updates
               "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # JupyterLab refuses root unless told
        command.append("--allow-root")
    return command


if __name__ == "__main__":
    try:
        port = sys.argv[1] if len(sys.argv) > 1 else "8888"
        quiet = {"PYTHONWARNINGS": "ignore::FutureWarning:torch.jit._script"}  # fastai's import, harmless
        sys.exit(subprocess.call(lab_command(port), cwd=root, env=os.environ | quiet))
    except KeyboardInterrupt:
        pass
