"""Inside `datasets`, a notebook and a web server audiovq gives what it gives alone."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from audiovq.audio.writer import write_audio
from audiovq.tokenizer import load
from helpers.models import speech

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(
            find_spec(name) is None for name in ("datasets", "nbclient", "ipykernel", "starlette", "uvicorn")
        ),
        reason="audiovq[integration] is not installed",
    ),
]

MAP = """
import sys
from pathlib import Path
from datasets import Dataset
import audiovq

tokenizer = audiovq.load(sys.argv[1])

def encode(row):
    codes = tokenizer.encode(row["path"])
    return {"codes": codes.codes.tolist(), "samples": len(tokenizer.decode(codes, fast=True).samples)}

paths = sorted(str(path) for path in Path(sys.argv[2]).glob("*.wav"))
made = Dataset.from_dict({"path": paths}).map(encode, num_proc=2)
for row in made:
    alone = encode(row)
    assert {key: row[key] for key in alone} == alone, row["path"]
assert len(made) == 20
"""

CELLS = (
    "import asyncio, hashlib, sys\nimport numpy as np\nimport audiovq",
    "tokenizer = audiovq.load(MODEL)",
    "codes = tokenizer.encode(RECORDING)\ncodes.rows[:3]",
    "recording = tokenizer.decode(codes)\nlen(recording.samples)",
    "from IPython.display import Audio\nAudio(recording.samples, rate=recording.sample_rate)",
    "try:\n    codes.save('-')\nexcept audiovq.AudiovqError as error:\n    print(error)",
    "four = await asyncio.gather(*(asyncio.to_thread(tokenizer.decode, codes) for _ in range(4)))\n"
    "all((r.samples == recording.samples).all() for r in four)",
    "sum(len(block) for block in tokenizer.stream(codes, fast=True))",
    "(made,) = tokenizer.prior.generate(0.5, speaker=1)\nlen(made)",
    "hashlib.sha256(recording.samples.tobytes()).hexdigest()",
)
NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient

cells = [cell.replace("MODEL", repr(sys.argv[1])).replace("RECORDING", repr(sys.argv[2])) for cell in CELLS]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(notebook, timeout=None).execute()
outputs = [cell.outputs for cell in notebook.cells]
assert [len(each) for each in outputs] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1], outputs
assert "audio" in outputs[4][0].data["text/html"]
assert outputs[5][0].text.startswith("standard output: is text alone here"), outputs[5]
assert outputs[6][0].data["text/plain"] == "True"
print(outputs[9][0].data["text/plain"].strip("'"))
"""

SERVER = """
import asyncio, sys, threading, time, urllib.request
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
import audiovq

tokenizer = audiovq.load(sys.argv[1])

async def codes(request):
    samples = np.frombuffer(await request.body(), np.float32)
    made = await asyncio.to_thread(tokenizer.encode, samples, 16_000)
    return Response(made.codes.tobytes())

async def sound(request):
    made = np.frombuffer(await request.body(), np.uint16)
    blocks = tokenizer.stream(made, seed=int(request.query_params["seed"]))
    return StreamingResponse(block.tobytes() for block in blocks)

app = Starlette(routes=[Route("/codes", codes, methods=["POST"]), Route("/sound", sound, methods=["POST"])])
server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    assert thread.is_alive()
    time.sleep(0.01)
port = server.servers[0].sockets[0].getsockname()[1]

def ask(path, content):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data=content, timeout=60) as answer:
        return answer.read()

signals = [np.load(sys.argv[2])[n * 700 : n * 700 + 9_000] for n in range(8)]
answers = {}

def client(n):
    made = ask("codes", signals[n].tobytes())
    answers[n] = (made, ask(f"sound?seed={n}", made))

clients = [threading.Thread(target=client, args=(n,)) for n in range(8)]
for each in clients:
    each.start()
for each in clients:
    each.join()
server.should_exit = True
thread.join()
for n in range(8):
    alone = tokenizer.encode(signals[n], 16_000).codes
    assert answers[n][0] == alone.tobytes(), n
    assert answers[n][1] == tokenizer.decode(alone, seed=n).samples.tobytes(), n
"""


def run(program: str, folder: Path, *arguments: Path) -> str:
    """What a program prints, in a process of its own that finds no network and no settings of the user."""
    (folder / "program.py").write_text(program)
    home = {name: str(folder) for name in ("HOME", "HF_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    done = subprocess.run(
        [sys.executable, folder / "program.py", *arguments],
        env=os.environ | home | {"HF_HUB_OFFLINE": "1", "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dataset_is_mapped_by_two_processes(tiny_levels_path: Path, tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    signal = speech(40_000)
    for n in range(20):
        write_audio(recordings / f"{n:02d}.wav", signal[n * 1_000 : n * 1_000 + 8_000 + 100 * n], 16_000)
    run(MAP, tmp_path, tiny_levels_path, recordings)


def test_a_notebook_runs(tiny_levels_path: Path, tmp_path: Path) -> None:
    import hashlib

    recording = tmp_path / "speech.wav"
    write_audio(recording, speech(9_000), 16_000)
    printed = run(f"CELLS = {CELLS!r}\n{NOTEBOOK}", tmp_path, tiny_levels_path, recording)
    tokenizer = load(tiny_levels_path)
    samples = tokenizer.decode(tokenizer.encode(recording)).samples
    assert printed.strip() == hashlib.sha256(samples.tobytes()).hexdigest()


def test_a_server_answers_eight_at_once(tiny_levels_path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "signal.npy", speech(15_000))
    run(SERVER, tmp_path, tiny_levels_path, tmp_path / "signal.npy")
