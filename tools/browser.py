"""What the site's tests need beside Python packages: a Chromium browser, and axe-core, which checks accessibility.

    python tools/browser.py     installs them where it can: Chromium as root on Debian, axe-core where npm is
"""
import os
import shutil
import subprocess
from pathlib import Path

root = Path(__file__).parents[1]
folder = root / "build" / "browser"
axe_version = "4.14.1"


def chromium() -> str | None:
    "The path of an installed Chromium or Chrome."
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def axe() -> Path | None:
    "The script of axe-core, when it was fetched."
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    return path if path.exists() else None


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, cwd=root).returncode == 0


def install() -> list[str]:  # what is still missing, and why
    "Install what is missing, where that can be done without asking."
    missing = []
    if not chromium():
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get")
        packages = "chromium", "fonts-noto-core", "fonts-noto-cjk"
        if not (as_root and _succeeds("apt-get", "update") and
                _succeeds("apt-get", "install", "-y", "--no-install-recommends", *packages)):
            missing.append("chromium (on Debian, as root: apt install chromium fonts-noto-cjk)")
    if not axe():
        folder.mkdir(parents=True, exist_ok=True)
        if not (shutil.which("npm") and _succeeds("npm", "install", "--no-save", "--prefix", str(folder),
                                                  f"axe-core@{axe_version}")):
            missing.append(f"axe-core {axe_version} (comes by npm)")
    return missing


if __name__ == "__main__":
    for what in install():
        print(f"not installed: {what}")
