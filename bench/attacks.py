"""Puts the rows that the attacks printed between the marks of a document: `attacks.py OUTPUT DOCUMENT`."""

import sys
from pathlib import Path

TABLES = {
    "sizes": "| what | bytes | test |\n|---|---|---|\n",
    "attacks": "| attack | the server answers | memory, MiB | ping p99, ms | publish p99, ms | test |\n|---|---|---|---|---|---|\n",
}


def insert(document: str, name: str, text: str) -> str:
    begin, end = f"<!-- begin: {name}, written by `make attacks` -->\n", f"<!-- end: {name} -->\n"
    before, rest = document.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def main(output: str, path: str) -> None:
    rows = {name: [] for name in TABLES}
    for line in Path(output).read_text().splitlines():
        if line.startswith("| "):
            print(line)
            rows["sizes" if line.endswith("| `sizes::rooms` |") else "attacks"].append(f"{line}\n")
    document = Path(path).read_text()
    for name, head in TABLES.items():
        document = insert(document, name, head + "".join(rows[name]))
    Path(path).write_text(document)


main(*sys.argv[1:])
