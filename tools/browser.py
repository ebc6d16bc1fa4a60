"""What tests in a browser need beside Python packages: Debian's Chromium, driven by playwright, and axe-core, which checks
accessibility.

    python tools/browser.py     installs both where it can: Chromium on Debian as root, axe-core where npm is
"""
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import npm_packages

# `pip install playwright` brings the driver; the browser is the system's. Nothing is asked of other hosts.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
PACKAGES = ["chromium", "fonts-noto-core", "fonts-noto-cjk"]  # the fonts draw Japanese
folder = Path(__file__).parents[1] / "build" / "browser"


def _missing() -> list[str]:
    "The Debian packages that are not installed."
    return [name for name in PACKAGES
            if subprocess.run(["dpkg", "-s", name], capture_output=True).returncode]


def chromium() -> str | None:
    "Where Chromium lies; on Debian as root it is installed first. `None` where there is none."
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0 and (missing := _missing()):
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]  # another program may be installing
        quiet = dict(env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, capture_output=True)
        subprocess.run([*apt, "update"], **quiet)
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", *missing], **quiet)
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def axe() -> Path | None:
    "Where the script of axe-core lies; it is fetched first where npm is. `None` where there is none."
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not path.exists() and shutil.which("npm"):
        with suppress(OSError):
            npm_packages.install(folder, "--omit=dev")
    return path if path.exists() else None


if __name__ == "__main__":
    print(chromium() or "no Chromium here, and it could not be installed")
    print(axe() or "no axe-core here, and it could not be fetched")
