"A browser for the tests: Debian's Chromium, driven by playwright."
import os
import shutil
import subprocess

# `pip install playwright` brings the driver; the browser is the system's. Nothing is asked of other hosts.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
PACKAGES = ["chromium", "fonts-noto-cjk"]  # the fonts draw Japanese


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
    return next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


if __name__ == "__main__":
    print(chromium() or "no Chromium here, and it could not be installed")
