"""The private set intersection of ``spu`` beside ours: on CSV files, one process for each party.

``spu`` needs other versions of numpy and protobuf than this project, so it runs under the Python of an environment of its own,
which runs this file as a program::

    PYTHON bench/psi_rivals.py RANK PORT0 PORT1 PROTOCOL IN.csv OUT.csv

It reads and writes files where ours takes lists, so ``seconds`` are those of its phase "Online", the protocol alone, by times of
its own log, and ``seconds_with_files`` those of the whole.  Processor time and memory are of the whole.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


def main(rank: str, first: str, second: str, protocol: str, source: str, target: str) -> None:
    """One party: prints a line of JSON after what the library prints itself."""
    import spu.libspu as libspu  # type: ignore[import-not-found]
    import spu.psi as psi  # type: ignore[import-not-found]

    description = libspu.link.Desc()
    for number, port in enumerate((first, second)):
        description.add_party(f"party{number}", f"127.0.0.1:{port}")
    link = libspu.link.create_brpc(description, int(rank))
    csv = psi.SourceType.SOURCE_TYPE_FILE_CSV
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=getattr(psi.PsiProtocol, f"PROTOCOL_{protocol}"), receiver_rank=0, broadcast_result=True
        ),
        input_params=psi.InputParams(type=csv, path=source, selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(type=csv, path=target, disable_alignment=True),
    )
    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    report = psi.psi_execute(config, link)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    figures = {"seconds": seconds, "cpu_seconds": processor, "shared": report.intersection_count}
    print("figures " + json.dumps(figures | {"peak_rss_bytes": 1024 * after.ru_maxrss}), flush=True)
    link.stop_link()


def _free_ports() -> list[str]:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in (first, second)]


def _online(text: str) -> float:
    """Seconds between the log's lines that begin and end the phase "Online"."""
    times = re.findall(r"\[([-0-9]+ [:.0-9]+)\] \[info\].*::Online\] (?:start|end)", text)
    if len(times) != 2:
        raise RuntimeError("spu's log does not tell when its protocol began and ended")
    start, end = (datetime.fromisoformat(moment) for moment in times)
    return (end - start).total_seconds()


def run(python: Path, protocol: str, sets: Sequence[Sequence[str]], *, timeout: float) -> dict[str, Any]:
    """Both parties on these sets; seconds of the slower, processor seconds of both.

    Raises:
        RuntimeError: the library cannot be run there.
    """
    ports = _free_ports()
    with tempfile.TemporaryDirectory() as folder:
        parties = []
        for rank, identifiers in enumerate(sets):
            source = Path(folder) / f"in{rank}.csv"
            source.write_text("id\n" + "\n".join(identifiers) + "\n")
            command = [str(python), __file__, str(rank), *ports, protocol, str(source), str(Path(folder) / f"out{rank}.csv")]
            environment = os.environ | {"TMPDIR": folder}
            parties.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment)
            )
        try:
            texts = [party.communicate(timeout=timeout)[0] for party in parties]
        finally:
            for party in parties:
                party.kill()
    for trace in re.findall(r"Trace has been written to (\S+\.trace)", "".join(texts)):
        Path(trace).unlink(missing_ok=True)
    told = [re.search(r"^figures (.*)$", text, re.MULTILINE) for text in texts]
    if not all(told):
        raise RuntimeError(f"spu did not run under {python}: {texts[0][-300:]}")
    figures = [json.loads(line.group(1)) for line in told if line]
    return {
        "seconds": max(map(_online, texts)),
        "seconds_with_files": max(one["seconds"] for one in figures),
        **{
            name: dict(zip(("receiver", "sender"), (one[name] for one in figures), strict=True))
            for name in ("cpu_seconds", "peak_rss_bytes")
        },
        "shared": figures[0]["shared"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
