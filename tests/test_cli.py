"The command line as a shell sees it: exit codes, pipes, encodings, languages, and a JupyterLab that answers."
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

command = str(Path(sys.executable).parent / "ft_tutorial")
latin = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
japanese = {"LC_ALL": "ja_JP.UTF-8", "PYTHONIOENCODING": "utf-8"}


def call(*arguments, cwd=None, **environment):
    "Run the command as a script does: no terminal, its output in pipes."
    how = dict(cwd=cwd, env=os.environ | {"LC_ALL": "C.UTF-8", "NO_COLOR": "1"} | environment, capture_output=True)
    done = subprocess.run([command, *map(str, arguments)], **how)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    out, err = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert "Traceback" not in err and "\x1b" not in out + err
    return done.returncode, out, err


def test_help_has_examples_in_both_languages():
    code, out, err = call("--help")
    assert (code, err) == (0, "") and "examples:" in out and "exit codes: 0" in out
    for name in ("lab", "doctor", "name", "term"):
        code, out, err = call(name, "--help")
        assert (code, err) == (0, "") and f"  ft_tutorial {name}" in out.partition("examples:")[2]
        code, out, err = call(name, "--help", **japanese)
        assert (code, err) == (0, "") and "終了コード" in out and "examples" not in out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["term", "finetunning2"], ["lab", "--port", "0"],
                                       ["lab", __file__], ["lab", ""], ["lab", "--fresh=1"], ["name", "absent.pth", "absent.pth"]])
def test_what_is_given_wrong_ends_with_2(arguments, tmp_path):
    code, out, err = call(*arguments, cwd=tmp_path)
    assert code == 2 and (err or "usage" in out)
    assert not list(tmp_path.iterdir())
    code, out, err = call(*arguments, cwd=tmp_path, **japanese)
    assert code == 2 and not any(word in out + err for word in ("usage", "error", "expected", "choose", "is a file"))


def test_a_folder_that_cannot_be_written_to():
    code, out, err = call("lab", Path(__file__) / "mine")
    assert (code, out) == (1, "") and "cannot write to" in err and "ft_tutorial lab FOLDER" in err and "Errno" not in err
    code, out, err = call("lab", Path(__file__) / "mine", **japanese)
    assert (code, out) == (1, "") and "書き込めるフォルダを指定してください" in err


def test_a_word_in_one_language_and_all_words():
    code, out, err = call("term", "transfer", "learning")
    assert (code, err) == (0, "") and out.startswith("transfer learning  転移学習\n  Applying") and "応用" not in out
    code, out, err = call("term", "transfer", "learning", **japanese)
    assert (code, err) == (0, "") and out.startswith("転移学習  transfer learning\n") and "Applying" not in out
    code, out, err = call("term")
    assert (code, err) == (0, "") and len(out.splitlines()) == 50
    assert "ft_tutorial term, without a word, lists all 50" in call("term", "zzzz")[2]


def test_an_output_that_cannot_show_japanese_is_no_error():
    assert call("term", "転移学習")[0] == 0
    code, out, err = call("term", "転移学習", **latin)
    assert (code, err) == (0, "") and out.startswith("transfer learning  ????")
    code, out, err = call("--help", **japanese | latin)
    assert code == 0 and "examples:" in out, "English, because Japanese cannot be shown"


def test_a_pipe_may_close_early():
    "As `ft_tutorial term x | true`: no message, whatever was written."
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([command, "term", "freeze"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("closed", [1, 2])
def test_an_output_that_the_shell_closed(closed):
    done = subprocess.run(["sh", "-c", f'"{command}" term freeze {closed}>&-'], capture_output=True)
    assert done.returncode == 0 and done.stderr == b"" and (b"freez" in done.stdout) == (closed == 2)


def test_doctor_finds_this_install_in_order_and_a_fault(tmp_path):
    code, out, err = call("doctor", cwd=tmp_path)
    assert code == 0, out + err
    lines = out.splitlines()
    assert len([line for line in lines if line.startswith("✓")]) == 10 and lines[-1] == "All in order."
    assert "bit for bit; accuracy" in out
    code, out, err = call("doctor", cwd=tmp_path, FT_TUTORIAL_CACHE="/dev/null/cache", **japanese)
    assert code == 1 and "✗  キャッシュ" in out and "対処" in out and "書き込めない" in out
    assert "FT_TUTORIAL_CACHE" in out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def page_of(address: str, process) -> str:
    "What JupyterLab answers, once it does."
    for _ in range(600):
        assert process.poll() is None, f"it ended: {process.args}"
        try:
            with urllib.request.urlopen(address) as answer:
                return f"{answer.url}\n{answer.read().decode()}"
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(address)


@pytest.mark.parametrize("language, first", [({"LC_ALL": "C.UTF-8"}, "index.ipynb"), (japanese, "ja/index.ipynb")])
def test_lab_copies_the_notebooks_and_opens_jupyterlab_at_the_index(tmp_path, language, first):
    port = free_port()
    environment = os.environ | {"JUPYTER_TOKEN": "known", "PYTHONUNBUFFERED": "1"} | language
    process = subprocess.Popen([command, "lab", "mine", "--no-browser", "--port", str(port)], cwd=tmp_path, text=True,
                               encoding="utf-8", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        page = page_of(f"http://127.0.0.1:{port}/?token=known", process)
        process.terminate()  # as `kill` does; JupyterLab, which holds the pipes, too, ends with it
        out, err = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert f"/lab/tree/{first}?" in page.partition("\n")[0], page.partition("\n")[0]
    assert "JupyterLab" in page
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
    folder = tmp_path / "mine"
    assert str(folder) in out and ("Ctrl-C twice ends it" in out) == (first == "index.ipynb")
    assert "Traceback" not in err and process.returncode == 128 + signal.SIGTERM
    assert {"index.ipynb", "00_terms.ipynb", "NOTICE"} <= {path.name for path in folder.iterdir()}
