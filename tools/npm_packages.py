"""Fetch what is pinned in tools/npm, and nothing else: npm compares the checksum of each package with package-lock.json.

After a change of package.json, in tools/npm:
    npm install --package-lock-only --ignore-scripts --omit-lockfile-registry-resolved
"""
import shutil
import subprocess
from pathlib import Path

PINNED = Path(__file__).with_name("npm")


def install(folder: Path,  # gets `node_modules`
            *options: str,  # of `npm ci`
            pinned: Path = PINNED,  # folder with package.json and package-lock.json
           ) -> None:
    "Install into `folder`; `RuntimeError` for a package with another checksum, `OSError` where nothing can be fetched."
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(pinned / name, folder / name)
    done = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", *options], cwd=folder,
                          capture_output=True, text=True)
    if "EINTEGRITY" in done.stderr:
        raise RuntimeError(f"npm brought another package than the one that is pinned in {pinned}:\n{done.stderr}")
    if done.returncode:
        raise OSError(done.stderr)
